//! The way to an origin, in stages: who asks, what the policy says, where the name leads, whether it may lead
//! there. Whoever is through holds the addresses that were looked at, and only those are dialed.

use std::net::{IpAddr, SocketAddr};

use clawkeep_policy::{Caller, Destination, Grant, Matcher, Target};
use tokio::net::TcpStream;

use crate::event::printable;
use crate::outside::is_own;
use crate::proxy::Shared;
use crate::refusal::Refusal;

/// The two ends of a connection from inside, as the sandbox sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
}

impl Ends {
    pub(crate) fn of(stream: &TcpStream) -> std::io::Result<Self> {
        Ok(Self { client: stream.peer_addr()?, server: stream.local_addr()? })
    }
}

/// A connection that the policy grants, to an origin that has answered.
pub(crate) struct Passage {
    pub(crate) target: Target,
    pub(crate) caller: Option<String>,
    pub(crate) grant: Grant,
    /// Every address that the name had, each allowed.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) origin: TcpStream,
}

impl Shared {
    /// Ask who is at the other end, if this policy wants to know it for this target.
    pub(crate) fn caller(&self, matcher: &Matcher, target: &Target, ends: Ends) -> Option<String> {
        matcher.needs_caller(target).then(|| self.callers.executable(ends.client, ends.server)).flatten()
    }

    /// Go through all stages and dial.
    pub(crate) async fn pass(
        &self,
        target: &Target,
        ends: Ends,
    ) -> Result<Passage, (Refusal, Option<String>)> {
        let matcher = self.policy.current();
        let caller = self.caller(&matcher, target, ends);
        let grant = connect(&matcher, target, caller.as_deref());
        let passed = async {
            let grant = grant?;
            let limit = self.limits.connect;
            let addresses = self.outside.addresses(target, &grant, limit).await?;
            // One that may not be dialed refuses them all: a mixed answer is no accident.
            grant.addresses(&addresses).map_err(Refusal::Policy)?;
            if grant.destination() == Destination::Resolve && leads_home(target, &addresses) {
                return Err(Refusal::OwnAddress);
            }
            let ends: Vec<SocketAddr> = addresses.iter().map(|ip| (*ip, target.port()).into()).collect();
            let origin = self.outside.dial(&ends, limit).await?;
            Ok((grant, addresses, origin))
        };
        match passed.await {
            Ok((grant, addresses, origin)) => {
                Ok(Passage { target: target.clone(), caller, grant, addresses, origin })
            }
            Err(refusal) => Err((refusal, caller.map(|caller| printable(caller.as_bytes())))),
        }
    }
}

/// Whether a name leads to this host by one of its addresses on the Internet, behind which its own services listen.
/// Who wants that says so: by the address itself, by a private one in `allowed_ips`, by the names that this host has.
fn leads_home(target: &Target, addresses: &[IpAddr]) -> bool {
    let listed = |ip: &IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    !target.is_address() && addresses.iter().any(|ip| !listed(ip) && is_own(*ip))
}

/// What the policy says to a connection.
pub(crate) fn connect(matcher: &Matcher, target: &Target, caller: Option<&str>) -> Result<Grant, Refusal> {
    let caller = caller.map_or(Caller::Unknown, Caller::Executable);
    matcher.connect(target, caller).map_err(Refusal::Policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_lead_home() {
        let name = Target::parse(b"a.example", Some(80)).unwrap();
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let other: IpAddr = "198.41.0.1".parse().unwrap();
        assert!(leads_home(&name, &[other, own]));
        assert!(!leads_home(&name, &[other]));
        assert!(!leads_home(&Target::parse(b"127.0.0.1", Some(80)).unwrap(), &[own]));
    }
}
