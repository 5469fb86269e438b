//! Where a credential may go.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use clawkeep_plan::SandboxName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{CredentialName, Refusal};

/// The most hosts that one credential is bound to.
pub const MAX_HOSTS: usize = 32;

/// A host and its port, written `HOST[:PORT]`; without a port 443. One host each: a pattern would hand the secret
/// to whoever can make a name that fits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoundHost {
    host: String,
    port: u16,
}

/// A text that names no single host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host to bind a credential to: use HOST or HOST:PORT, one host each, without a scheme")]
pub struct HostError(String);

impl FromStr for BoundHost {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let error = || HostError(text.chars().take(80).collect());
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                let address: Ipv6Addr = address.parse().map_err(|_| error())?;
                let port =
                    if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(error)?) };
                (format!("[{address}]"), port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (name(host).ok_or_else(error)?, Some(port)),
                None => (name(text).ok_or_else(error)?, None),
            },
        };
        let port = match port {
            None => 443,
            Some(digits) if digits.starts_with(|c: char| matches!(c, '1'..='9')) => {
                digits.parse().map_err(|_| error())?
            }
            Some(_) => return Err(error()),
        };
        Ok(Self { host, port })
    }
}

/// The name in its one spelling: lowercase, no dot at the end (RFC 1035, section 2.3.1, and `_`).
fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return None;
    }
    // `127.1` and the like are addresses to some resolvers: only the plain spelling is one.
    let number = |label: &str| label.starts_with(|c: char| c.is_ascii_digit()) && !label.contains(['-', '_']);
    let last = text.rsplit('.').next()?;
    if last.bytes().all(|byte| byte.is_ascii_digit()) || (number(last) && last.starts_with("0x")) {
        return text.parse::<Ipv4Addr>().ok().map(|address| address.to_string());
    }
    Some(text.to_ascii_lowercase())
}

impl fmt::Display for BoundHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

impl Serialize for BoundHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BoundHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a request goes, as the proxy decided about it.
#[derive(Debug, Clone, Copy)]
pub struct Toward<'a> {
    /// The host in its canonical spelling: lowercase, no dot at the end, IPv6 in brackets.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// It goes over TLS that the proxy itself speaks with the host, whose certificate it has verified.
    pub inspected: bool,
}

/// Who may use a credential, and toward whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The hosts; toward no other it is ever sent.
    pub hosts: Vec<BoundHost>,
    /// The one sandbox that may use it; `None`: each may.
    #[serde(default)]
    pub sandbox: Option<SandboxName>,
}

impl Binding {
    /// Whether this sandbox may send the credential of this name and binding there. One that is another sandbox's
    /// is not known to this one.
    ///
    /// # Errors
    /// [`Refusal`], the reason.
    pub fn admits(
        &self,
        name: &CredentialName,
        sandbox: &SandboxName,
        toward: Toward<'_>,
    ) -> Result<(), Refusal> {
        if self.sandbox.as_ref().is_some_and(|only| only != sandbox) {
            return Err(Refusal::Unknown(name.clone()));
        }
        if !self.hosts.iter().any(|bound| bound.host == toward.host && bound.port == toward.port) {
            let host = format!("{}:{}", toward.host, toward.port);
            return Err(Refusal::OtherHost { name: name.clone(), host });
        }
        if !toward.inspected {
            return Err(Refusal::NotInspected(name.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling_for_each_host() {
        for (text, canonical) in [
            ("api.github.com", "api.github.com"),
            ("API.GitHub.com.:443", "api.github.com"),
            ("api.github.com:8443", "api.github.com:8443"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[0:0::1]:8443", "[::1]:8443"),
            ("[::1]", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("0x.example", "0x.example"),
        ] {
            assert_eq!(text.parse::<BoundHost>().unwrap().to_string(), canonical, "{text}");
        }
        for bad in [
            "",
            ".",
            "*",
            "*.github.com",
            "https://api.github.com",
            "a/b",
            "a b",
            "a@b",
            "é.com",
            "a..b",
            "a:",
            "a:0",
            "a:01",
            "a:65536",
            "a:+1",
            "a:1:2",
            "::1",
            "[::1",
            "[::1]x",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "a-.b",
            "-a.b",
        ] {
            assert!(bad.parse::<BoundHost>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn admits_its_hosts_over_inspected_tls_and_nothing_else() {
        let [name, other] = ["K", "L"].map(|name| name.parse::<CredentialName>().unwrap());
        let [ours, theirs] = ["ours", "theirs"].map(|name| name.parse::<SandboxName>().unwrap());
        let hosts = vec!["api.example".parse().unwrap(), "b.example:8443".parse().unwrap()];
        let all = Binding { hosts, sandbox: None };
        let one = Binding { sandbox: Some(ours.clone()), ..all.clone() };
        let to = |host, port| Toward { host, port, inspected: true };
        assert_eq!(all.admits(&name, &theirs, to("api.example", 443)), Ok(()));
        assert_eq!(one.admits(&name, &ours, to("b.example", 8443)), Ok(()));
        assert_eq!(one.admits(&name, &theirs, to("api.example", 443)), Err(Refusal::Unknown(name.clone())));
        for (host, port) in [
            ("api.example", 8443),
            ("b.example", 443),
            ("x.api.example", 443),
            ("api.example.evil", 443),
            ("API.example", 443),
            ("", 443),
        ] {
            let refused = one.admits(&other, &ours, to(host, port));
            assert!(matches!(refused, Err(Refusal::OtherHost { .. })), "{host}:{port}");
        }
        let open = Toward { inspected: false, ..to("api.example", 443) };
        assert_eq!(all.admits(&name, &ours, open), Err(Refusal::NotInspected(name)));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_reads_back_as_itself(text in "[a-zA-Z0-9.:\\[\\]_*-]{0,24}") {
            if let Ok(host) = text.parse::<BoundHost>() {
                prop_assert_eq!(host.to_string().parse::<BoundHost>(), Ok(host));
            }
        }
    }
}
