use std::fmt;
use std::net::IpAddr;

use crate::glob::Glob;
use crate::target::{Target, is_address_like};

/// The names by which this host's own loopback is meant. Nothing else ever reaches it.
pub(crate) const HOST_NAMES: [&str; 2] = ["host.openshell.internal", "host.docker.internal"];

/// The host that an endpoint names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// One name or address, canonical.
    Exact(String),
    /// `*.example.com`, `*-api.example.com`, `api.*.example.com`, `**.example.com`.
    Wildcard(Glob),
}

/// Why a text is no host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("{0}")]
    Malformed(crate::TargetError),
    #[error("a wildcard needs a name of at least three labels that ends in two plain ones: *.example.com")]
    TooWide,
    #[error("`**` stands for whole labels at the beginning only: **.example.com")]
    BadDepth,
    #[error("a later label is a wildcard as a whole or not at all: api.*.example.com")]
    PartOfLabel,
    #[error("host names know `*` and `**` only")]
    BadWildcard,
    #[error("write the address as {0}")]
    OddAddress(IpAddr),
    #[error("it is an address in a spelling that every program reads in its own way")]
    NoAddress,
    #[error("no wildcard covers this host itself: name it exactly")]
    HostName,
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains(['*', '?', '[']) && !text.starts_with('[') {
            return Self::wildcard(&text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase());
        }
        // A bare IPv6 address is unmistakable where no port can follow.
        let bracketed =
            if text.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{text}]") } else { text.into() };
        let target = Target::of_host(&bracketed).map_err(HostError::Malformed)?;
        if target.is_address() {
            let ip = target.address().ok_or(HostError::NoAddress)?;
            if ip.to_canonical() != ip {
                return Err(HostError::OddAddress(ip.to_canonical()));
            }
        }
        Ok(Self(Kind::Exact(target.host().to_owned())))
    }

    fn wildcard(text: &str) -> Result<Self, HostError> {
        if text.contains(['?', '[', ']']) {
            return Err(HostError::BadWildcard);
        }
        let labels: Vec<&str> = text.split('.').collect();
        let plain_end = labels.iter().rev().take_while(|label| !label.contains('*')).count();
        if labels.len() < 3 || plain_end < 2 || is_address_like(labels[labels.len() - 1]) {
            return Err(HostError::TooWide);
        }
        for (index, label) in labels.iter().enumerate() {
            if label.contains("**") && !(index == 0 && *label == "**") {
                return Err(HostError::BadDepth);
            }
            if index > 0 && label.contains('*') && *label != "*" {
                return Err(HostError::PartOfLabel);
            }
        }
        // What the stars stand for aside, it has to be a name.
        Target::of_host(&text.replace('*', "x")).map_err(HostError::Malformed)?;
        let glob = Glob::parse(text, b'.').map_err(|_| HostError::BadWildcard)?;
        if HOST_NAMES.iter().any(|name| glob.matches(name)) {
            return Err(HostError::HostName);
        }
        Ok(Self(Kind::Wildcard(glob)))
    }

    /// The one host, where it is no wildcard.
    pub(crate) fn exact(&self) -> Option<&str> {
        match &self.0 {
            Kind::Exact(host) => Some(host),
            Kind::Wildcard(_) => None,
        }
    }

    /// Whether it covers a canonical host. A wildcard ends in a label that no address ends in, so it never covers
    /// one.
    pub(crate) fn covers(&self, host: &str) -> bool {
        match &self.0 {
            Kind::Exact(own) => own == host,
            Kind::Wildcard(glob) => glob.matches(host),
        }
    }

    /// Whether it means this host's own loopback.
    pub(crate) fn is_this_host(&self) -> bool {
        self.exact().is_some_and(|host| HOST_NAMES.contains(&host))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Exact(host) => host,
            Kind::Wildcard(glob) => glob.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).unwrap().covers(host)
    }

    #[test]
    fn a_star_is_one_label_and_two_are_any_depth() {
        assert!(covers("*.x.com", "a.x.com"));
        assert!(!covers("*.x.com", "x.com"));
        assert!(!covers("*.x.com", "a.b.x.com"));
        assert!(!covers("*.x.com", "ax.com"));
        assert!(covers("**.x.com", "a.x.com"));
        assert!(covers("**.x.com", "a.b.x.com"));
        assert!(!covers("**.x.com", "x.com"));
        assert!(!covers("**.x.com", "a.x.com.evil.org"));
        assert!(covers("*-api.x.com", "eu-api.x.com"));
        assert!(!covers("*-api.x.com", "eu.y-api.x.com"));
        assert!(covers("api.*.x.com", "api.eu.x.com"));
        assert!(covers("API.Example.COM", "api.example.com"));
        assert!(covers("api.example.com.", "api.example.com"));
        assert!(covers("fd00::1", "[fd00::1]"));
    }

    #[test]
    fn what_is_too_wide_or_no_name_is_refused() {
        for text in [
            "*",
            "**",
            "*.com",
            "**.com",
            "*.*.com",
            "api.*.com",
            "a.**.x.com",
            "***.x.com",
            "a**.x.com",
            "a.b*.x.com",
            "?.x.com",
            "[ab].x.com",
            "*.0.0.1",
            "*..x.com",
            "*.x.com:443",
            "x.com/a",
            "x com",
            "127.1",
            "0x7f.1",
            "2130706433",
            "[::ffff:10.0.0.1]",
            "ex\u{e4}mple.com",
            "",
            "*.openshell.internal",
            "**.docker.internal",
            "*.x.com..",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }
}
