//! A port on the host's loopback that leads to a port on a sandbox's loopback. The connection is made from
//! inside, so that the agent sees a loopback peer.

use std::net::Ipv4Addr;
use std::time::Duration;

use clawkeep_supervisor::{Door, InitClient};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Ports that dashboards get, in order of preference.
pub const DASHBOARD_PORTS: std::ops::RangeInclusive<u16> = 18789..=18799;

/// How long after a port was found taken it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Connections at once for one sandbox.
const MAX_CONNECTIONS: usize = 128;

/// Forward for as long as this task lives. A port that is taken is tried again: whoever has it may go.
/// `bound` is a listener on it that is there already.
pub async fn serve(
    port: u16,
    mut bound: Option<TcpListener>,
    door: Door,
    client: watch::Receiver<Option<InitClient>>,
) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    // Ends with this task, and all connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let listener = match bound.take() {
            Some(listener) => listener,
            None => match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => listener,
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
        };
        loop {
            while connections.try_join_next().is_some() {}
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, mostly: let others close some.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = std::sync::Arc::clone(&places).try_acquire_owned() else { continue };
            let client = client.borrow().clone();
            connections.spawn(async move {
                // A sandbox that is not there: the connection closes, and clients try again by themselves.
                if let Some(client) = client {
                    let _ = carry(stream, &client, door).await;
                }
                drop(place);
            });
        }
    }
}

async fn carry(mut outside: TcpStream, client: &InitClient, door: Door) -> std::io::Result<()> {
    outside.set_nodelay(true)?;
    let mut inside = door.open(client).await?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.map(drop)
}

/// The port that a new sandbox gets, bound: the wanted one, or the first free one of [`DASHBOARD_PORTS`] that
/// no other sandbox has.
pub async fn choose(wanted: Option<u16>, taken: &[u16]) -> Option<(u16, TcpListener)> {
    let candidates: Vec<u16> = wanted.map_or_else(|| DASHBOARD_PORTS.collect(), |port| vec![port]);
    for port in candidates {
        if !taken.contains(&port)
            && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
        {
            return Some((port, listener));
        }
    }
    None
}
