//! What is served of a sandbox from outside: its proxy and its name server, by one policy.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use clawkeep_egress::{Authority, DnsStub, Event, HostResolver, LivePolicy, Proxy, Secrets, SockDiag};
use clawkeep_inference::LiveService;
use clawkeep_plan::SandboxName;
use clawkeep_supervisor::Inside;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{DNS_PORT, PROXY_PORT};

/// The ports inside that are served.
pub const SERVED: [u16; 2] = [PROXY_PORT, DNS_PORT];

/// Serve until the task is aborted. Everything that is [`SERVED`], or nothing: the error says why.
pub fn serve(
    name: &SandboxName,
    authority: &Authority,
    inference: LiveService,
    policy: LivePolicy,
    inside: Inside,
    secrets: Arc<dyn Secrets>,
    events: mpsc::Sender<Event>,
) -> Result<JoinHandle<()>, String> {
    let Inside { mut listeners, mut datagrams, diagnostics, proc } = inside;
    let proxied = tcp(take(&mut listeners, PROXY_PORT)?)?;
    let asked = (udp(take(&mut datagrams, DNS_PORT)?)?, tcp(take(&mut listeners, DNS_PORT)?)?);
    let callers = SockDiag::new(diagnostics, &proc).map_err(|error| format!("sock_diag: {error}"))?;
    let names = DnsStub::new(policy.clone(), Arc::new(HostResolver), events.clone());
    let proxy = Proxy::new(authority, inference, policy, Arc::new(callers), events)
        .map_err(|error| error.to_string())?
        .with_name(name.as_str())
        .with_secrets(secrets);
    Ok(tokio::spawn(async move {
        tokio::join!(proxy.serve(proxied, std::future::pending()), names.serve(asked.0, asked.1));
    }))
}

fn take(sockets: &mut Vec<(u16, OwnedFd)>, port: u16) -> Result<OwnedFd, String> {
    let at = sockets.iter().position(|(of, _)| *of == port);
    at.map(|at| sockets.swap_remove(at).1).ok_or_else(|| format!("the sandbox has no socket of port {port}"))
}

fn tcp(socket: OwnedFd) -> Result<TcpListener, String> {
    TcpListener::from_std(socket.into()).map_err(|error| error.to_string())
}

fn udp(socket: OwnedFd) -> Result<UdpSocket, String> {
    UdpSocket::from_std(socket.into()).map_err(|error| error.to_string())
}
