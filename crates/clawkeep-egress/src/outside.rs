use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clawkeep_outbound::{DialError, client_config, dial, host_roots};
use clawkeep_policy::{Destination, Grant, Target};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::refusal::Refusal;
use crate::resolver::Resolver;

/// The most addresses of a name that are looked at; more are refused as a whole, since none may be skipped.
const MAX_ADDRESSES: usize = 64;

/// Where tests send a connection, given the address that the policy was asked about.
#[cfg(test)]
pub(crate) type Reroute = Arc<dyn Fn(SocketAddr) -> SocketAddr + Send + Sync>;

/// What the proxy asks of the world outside: names, connections, trust.
pub(crate) struct Outside {
    pub(crate) resolver: Arc<dyn Resolver>,
    roots: OnceLock<Option<Arc<RootCertStore>>>,
    /// With HTTP/2 and without.
    configs: [OnceLock<Option<Arc<ClientConfig>>>; 2],
    /// Tests' origins listen on the loopback, behind whatever address the policy was asked about.
    #[cfg(test)]
    pub(crate) reroute: Option<Reroute>,
}

/// Addresses that nobody has (RFC 5737, RFC 3849).
const NOBODYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Whether this is an address of this host: then a socket may have it (ip(7)). Where the host lets sockets have any
/// address (`ip_nonlocal_bind`), it is known by this, that what is sent to it is sent from it.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let may_have = |ip: IpAddr| UdpSocket::bind((ip, 0));
    let Ok(socket) = may_have(ip) else { return false };
    let nobodys = NOBODYS.into_iter().filter(|nobodys| nobodys.is_ipv4() == ip.is_ipv4());
    if nobodys.map(may_have).all(|bound| bound.is_err()) {
        return true;
    }
    drop(socket);
    let any = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // Sends nothing (udp(7)), and any port will do.
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip().to_canonical() == ip.to_canonical())
}

impl Outside {
    pub(crate) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self {
            resolver,
            roots: OnceLock::new(),
            configs: [OnceLock::new(), OnceLock::new()],
            #[cfg(test)]
            reroute: None,
        }
    }

    /// Trust these roots instead of the host's.
    #[cfg(test)]
    pub(crate) fn trust(&mut self, roots: RootCertStore) {
        self.roots = OnceLock::from(Some(Arc::new(roots)));
    }

    /// Every address of the target, each once. What is no name is never given to a resolver.
    pub(crate) async fn addresses(
        &self,
        target: &Target,
        grant: &Grant,
        limit: Duration,
    ) -> Result<Vec<IpAddr>, Refusal> {
        if grant.destination() == Destination::HostLoopback {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        }
        if target.is_address() {
            return target.address().map(|ip| vec![ip]).ok_or(Refusal::Unresolved);
        }
        let found = timeout(limit, self.resolver.resolve(target.host())).await;
        let mut addresses = found.map_err(|_| Refusal::Unresolved)?.map_err(|_| Refusal::Unresolved)?;
        let mut seen = std::collections::HashSet::new();
        addresses.retain(|address| seen.insert(*address));
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(Refusal::Unresolved);
        }
        Ok(addresses)
    }

    /// Connect to one of these addresses and to no other.
    pub(crate) async fn dial(&self, addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, Refusal> {
        #[cfg(test)]
        let addresses: &[SocketAddr] = &addresses
            .iter()
            .map(|address| self.reroute.as_ref().map_or(*address, |to| to(*address)))
            .collect::<Vec<_>>();
        dial(addresses, limit).await.map_err(|error| match error {
            DialError::TimedOut(_) => Refusal::Unreachable(io::ErrorKind::TimedOut),
            DialError::Failed(error) => Refusal::Unreachable(error.kind()),
            DialError::NoAddress => Refusal::Unresolved,
        })
    }

    /// TLS to origins, which are held to the host's roots.
    pub(crate) fn tls(&self, http2: bool) -> Result<Arc<ClientConfig>, Refusal> {
        let roots = || self.roots.get_or_init(host_roots).clone();
        self.configs[usize::from(http2)]
            .get_or_init(|| {
                let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
                roots().map(|roots| Arc::new(client_config(roots, protocols)))
            })
            .clone()
            .ok_or_else(|| Refusal::Untrusted("this machine has no root certificates".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_addresses_are_told_from_others() {
        assert!(is_own("127.0.0.1".parse().unwrap()) && is_own("127.9.9.9".parse().unwrap()));
        assert!(!is_own("198.41.0.1".parse().unwrap()));
        assert!(is_own("::ffff:127.0.0.1".parse().unwrap()));
        // The address of an interface, where there is one that leads out.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("198.41.0.1:9").is_ok() {
            assert!(is_own(socket.local_addr().unwrap().ip()));
        }
    }
}
