//! What is served of a sandbox from outside: its proxy and its name server, by one policy.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use clawkeep_egress::{
    Authority, DnsStub, Event, HostResolver, LivePolicy, NoCallers, Proxy, Secrets, SockDiag, Verdicts,
};
use clawkeep_inference::LiveService;
use clawkeep_plan::SandboxName;
use clawkeep_supervisor::Inside;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{DNS_PORT, PROXY_PORT};

/// A sandbox of the lower tier, whose loopback is the host's and everybody's.
#[derive(Clone, Copy)]
pub struct Beside {
    /// The proxy's port.
    pub port: u16,
    /// Whom alone it serves.
    pub uid: u32,
}

/// One sandbox's.
pub struct Served<'a> {
    pub name: &'a SandboxName,
    pub authority: &'a Authority,
    pub inference: LiveService,
    pub policy: LivePolicy,
    pub verdicts: Arc<Verdicts>,
    pub secrets: Arc<dyn Secrets>,
    pub beside: Option<Beside>,
}

impl Served<'_> {
    /// Serve until the task is aborted: everything that a sandbox of its tier has, or nothing: the error says why.
    pub fn serve(self, inside: Inside, events: mpsc::Sender<Event>) -> Result<JoinHandle<()>, String> {
        let Inside { mut listeners, mut datagrams, diagnostics, proc, root: _ } = inside;
        let Self { name, authority, inference, policy, verdicts, secrets, beside } = self;
        let proxy = |policy, callers, events| {
            Proxy::new(authority, inference, policy, callers, events)
                .map(|proxy| proxy.with_name(name.as_str()).with_secrets(secrets).with_verdicts(verdicts))
                .map_err(|error| error.to_string())
        };
        if let Some(Beside { port, uid }) = beside {
            let proxied = tcp(take(&mut listeners, port)?)?;
            // Its processes are among the host's, and cannot be told from them in time: rules that name programs
            // apply to no connection.
            let proxy = proxy(policy, Arc::new(NoCallers), events)?.only_for(uid);
            return Ok(tokio::spawn(proxy.serve(proxied, std::future::pending())));
        }
        let proxied = tcp(take(&mut listeners, PROXY_PORT)?)?;
        let asked = (udp(take(&mut datagrams, DNS_PORT)?)?, tcp(take(&mut listeners, DNS_PORT)?)?);
        let callers = SockDiag::new(diagnostics, &proc).map_err(|error| format!("sock_diag: {error}"))?;
        let names = DnsStub::new(policy.clone(), Arc::new(HostResolver), events.clone());
        let proxy = proxy(policy, Arc::new(callers), events)?;
        Ok(tokio::spawn(async move {
            tokio::join!(proxy.serve(proxied, std::future::pending()), names.serve(asked.0, asked.1));
        }))
    }
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
