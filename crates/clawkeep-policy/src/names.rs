use std::net::IpAddr;

use crate::denial::{Denial, Reason};
use crate::grant::Grant;
use crate::matcher::Matcher;
use crate::target::Target;

/// How rules name a host, whatever the port and the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Letter by letter.
    Exact,
    /// By patterns only: whoever asks chooses a part of the name.
    Pattern,
    /// As this host's own loopback, of which no address is ever told.
    ThisHost,
}

impl Matcher {
    /// How the rules name this host; `None` where none does, and for what is an address.
    pub fn named(&self, name: &str) -> Option<Naming> {
        let target = Target::of_host(name).ok().filter(|target| !target.is_address())?;
        let hosts: Vec<_> =
            self.naming(target.host()).into_iter().map(|at| &self.rule(at).endpoint.host).collect();
        if hosts.iter().any(|host| host.is_this_host()) {
            return Some(Naming::ThisHost);
        }
        if hosts.iter().any(|host| host.exact().is_some()) {
            return Some(Naming::Exact);
        }
        (!hosts.is_empty()).then_some(Naming::Pattern)
    }

    /// Whether a resolver inside a sandbox may tell these addresses of a host: some rule that names it must let all
    /// of them be dialed, as for [`Grant::addresses`].
    ///
    /// # Errors
    /// The [`Denial`] by the first such rule.
    pub fn tellable(&self, name: &str, ips: &[IpAddr]) -> Result<(), Denial> {
        let target = Target::of_host(name).map_err(|_| Denial::new(Reason::Host, None))?;
        let mut first = None;
        for at in self.naming(target.host()) {
            match Grant::new(self.clone(), vec![at]).addresses(ips) {
                Ok(()) => return Ok(()),
                Err(denial) => first = first.or(Some(denial)),
            }
        }
        Err(first.unwrap_or_else(|| Denial::new(Reason::Host, None)))
    }
}

#[cfg(test)]
mod tests {
    use crate::Policy;

    use super::*;

    fn matcher() -> Matcher {
        let yaml = "version: 1
network_policies:
  some:
    endpoints:
      - { host: api.example.com, port: 443 }
      - { host: '*.example.com', port: 443 }
      - { host: inside.example.com, port: 443, allowed_ips: [10.0.0.0/8] }
      - { host: host.docker.internal, port: 11434 }
    binaries: [{ path: /**  }]
";
        Matcher::new(&Policy::read(yaml).unwrap().policy)
    }

    #[test]
    fn a_name_is_named_exactly_by_a_pattern_or_not_at_all() {
        let matcher = matcher();
        for (name, expected) in [
            ("api.example.com", Some(Naming::Exact)),
            ("API.example.com.", Some(Naming::Exact)),
            ("x.example.com", Some(Naming::Pattern)),
            ("host.docker.internal", Some(Naming::ThisHost)),
            ("example.com", None),
            ("example.org", None),
            ("10.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(matcher.named(name), expected, "{name}");
            assert_eq!(matcher.resolves(name), expected.is_some(), "{name}");
        }
    }

    #[test]
    fn only_addresses_that_one_rule_would_dial_are_told() {
        let matcher = matcher();
        let ips = |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
        let reason = |name, list: &[&str]| matcher.tellable(name, &ips(list)).map_err(|denial| denial.reason);
        assert_eq!(reason("api.example.com", &["8.8.8.8", "2606:4700::1"]), Ok(()));
        assert_eq!(reason("api.example.com", &["8.8.8.8", "10.0.0.1"]), Err(Reason::InternalAddress));
        assert_eq!(reason("x.example.com", &["127.0.0.1"]), Err(Reason::SpecialAddress));
        assert_eq!(reason("x.example.com", &["169.254.169.254"]), Err(Reason::MetadataAddress));
        assert_eq!(reason("inside.example.com", &["10.0.0.1"]), Ok(()));
        assert_eq!(reason("inside.example.com", &["192.168.0.1"]), Err(Reason::InternalAddress));
        assert_eq!(reason("example.org", &["8.8.8.8"]), Err(Reason::Host));
    }
}
