use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where somebody inside wants to go: host and port in their one canonical spelling. Decisions are made on
/// these bytes and on no others.
///
/// The host is lowercase ASCII without a trailing dot, an address as it was written, or an IPv6 address in
/// brackets in its shortest form (RFC 5952).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    host: String,
    port: u16,
}

/// Why a text names no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing before the port.
    #[error("no host is named")]
    NoHost,
    /// Longer than any name may be (RFC 1035: 253 characters).
    #[error("the host name is too long")]
    TooLong,
    /// A character that host names do not have: NUL, space, percent, at sign, slash, backslash, anything that
    /// is not ASCII.
    #[error("the host name holds a character that host names do not have")]
    BadCharacter,
    /// An empty label, one over 63 characters, or brackets around what is no IPv6 address.
    #[error("the host name is malformed")]
    Malformed,
    /// No port where one is needed, or not a number from 1 to 65535 in its plain spelling.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
}

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

impl Target {
    /// Read `host:port`, or `host` where a default port is known.
    ///
    /// # Errors
    /// [`TargetError`]. What is not plainly a target is none.
    pub fn parse(text: &[u8], default_port: Option<u16>) -> Result<Self, TargetError> {
        // Longest name, its dot, the colon and five digits.
        if text.len() > MAX_NAME + 7 {
            return Err(TargetError::TooLong);
        }
        let allowed =
            |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        if !text.iter().all(allowed) {
            return Err(TargetError::BadCharacter);
        }
        let text = std::str::from_utf8(text).map_err(|_| TargetError::BadCharacter)?;
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(TargetError::Malformed)?;
            let address: Ipv6Addr = address.parse().map_err(|_| TargetError::Malformed)?;
            let port = match port.strip_prefix(':') {
                Some(digits) => Some(digits),
                None if port.is_empty() => None,
                None => return Err(TargetError::Malformed),
            };
            (format!("[{address}]"), port)
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (canonical_name(host)?, port)
        };
        let port = match port {
            Some(digits) => parse_port(digits)?,
            None => default_port.ok_or(TargetError::BadPort)?,
        };
        Ok(Self { host, port })
    }

    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A host without a port, as a policy names it.
    pub(crate) fn of_host(host: &str) -> Result<Self, TargetError> {
        // Only an IPv6 address holds colons, and that is bracketed.
        if host.bytes().any(|byte| byte == b':') && !host.ends_with(']') {
            return Err(TargetError::Malformed);
        }
        Self::parse(host.as_bytes(), Some(443))
    }

    /// Whether the host is an address rather than a name, in any spelling that some resolver takes for one
    /// (`127.1`, `2130706433`, `0x7f000001`, `0177.0.0.1`).
    pub fn is_address(&self) -> bool {
        is_address_like(&self.host)
    }

    /// The address, where the host is one in its plain spelling. `None` for a name, and for a spelling such as
    /// `127.1`, which is nowhere to be dialed.
    pub fn address(&self) -> Option<IpAddr> {
        host_address(&self.host)
    }
}

/// The address that a canonical host is.
pub(crate) fn host_address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

/// Whether some resolver takes a canonical host for an address.
pub(crate) fn is_address_like(host: &str) -> bool {
    if host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    // A name whose last label is a number is an address to such resolvers, and to nobody a name.
    let last = host.rsplit('.').next().unwrap_or_default();
    let digits = last.strip_prefix("0x").unwrap_or(last);
    let hexadecimal = last.starts_with("0x") && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal || last.bytes().all(|b| b.is_ascii_digit())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn canonical_name(host: &str) -> Result<String, TargetError> {
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err(TargetError::NoHost);
    }
    if name.len() > MAX_NAME {
        return Err(TargetError::TooLong);
    }
    if name.contains(['[', ']']) {
        return Err(TargetError::Malformed);
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > MAX_LABEL) {
        return Err(TargetError::Malformed);
    }
    Ok(name.to_ascii_lowercase())
}

pub(crate) fn parse_port(digits: &str) -> Result<u16, TargetError> {
    let plain = !digits.is_empty()
        && digits.len() <= 5
        && !digits.starts_with('0')
        && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().map_err(|_| TargetError::BadPort) } else { Err(TargetError::BadPort) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling_for_each_target() {
        for (text, canonical) in [
            ("inference.local:443", "inference.local:443"),
            ("INFERENCE.Local.:443", "inference.local:443"),
            ("[::FFFF:127.0.0.1]:80", "[::ffff:127.0.0.1]:80"),
            ("[0:0::1]:80", "[::1]:80"),
            ("0x7F000001:80", "0x7f000001:80"),
            ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80"),
        ] {
            assert_eq!(Target::parse(text.as_bytes(), None).unwrap().to_string(), canonical, "{text}");
        }
        assert_eq!(Target::parse(b"inference.local", Some(80)).unwrap().port(), 80);
    }

    #[test]
    fn refuses_what_is_not_plainly_a_target() {
        use TargetError::*;
        let long = format!("{}:80", "a.".repeat(127) + "aaaa");
        let label = format!("{}.local:80", "a".repeat(64));
        for (text, error) in [
            (&b""[..], NoHost),
            (b":443", NoHost),
            (b".:443", NoHost),
            (b"inference.local", BadPort),
            (b"inference.local:", BadPort),
            (b"inference.local:0", BadPort),
            (b"inference.local:0443", BadPort),
            (b"inference.local:+443", BadCharacter),
            (b"inference.local:65536", BadPort),
            (b"inference.local:443:443", BadPort),
            (b"::1:443", NoHost),
            (b"[::1]443", Malformed),
            (b"[::1", Malformed),
            (b"[inference.local]:443", Malformed),
            (b"[::1%25lo]:443", BadCharacter),
            (b"inference.local]:443", Malformed),
            (b"inference..local:443", Malformed),
            (b".inference.local:443", Malformed),
            (b"inference.local..:443", Malformed),
            (b"inference.local\0.evil.com:443", BadCharacter),
            (b"inference.local@evil:443", BadCharacter),
            (b"user:pw@inference.local:443", BadCharacter),
            (b"inference%2elocal:443", BadCharacter),
            (b"inference.local :443", BadCharacter),
            (b"inference.local/x:443", BadCharacter),
            (b"inference.local\\x:443", BadCharacter),
            ("\u{2170}nference.local:443".as_bytes(), BadCharacter),
            ("inference\u{3002}local:443".as_bytes(), BadCharacter),
            (long.as_bytes(), TooLong),
            (label.as_bytes(), Malformed),
        ] {
            assert_eq!(Target::parse(text, None), Err(error), "{}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        /// Whatever is accepted is plain, and canonicalising again changes nothing.
        #[test]
        fn canonical_is_a_fixed_point(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(target) = Target::parse(&text, Some(80)) {
                let again = Target::parse(target.to_string().as_bytes(), None).unwrap();
                prop_assert_eq!(again, target);
            }
        }

        #[test]
        fn what_looks_like_a_target_is_a_fixed_point_too(text in "[a-zA-Z0-9.\\[\\]:_-]{1,40}(:[0-9]{1,6})?") {
            if let Ok(target) = Target::parse(text.as_bytes(), Some(80)) {
                prop_assert!(target.host().len() <= 253);
                prop_assert!(!target.host().ends_with('.'));
                prop_assert!(!target.host().bytes().any(|b| b.is_ascii_uppercase() || b <= b' ' || b == b'@'));
                let again = Target::parse(target.to_string().as_bytes(), None).unwrap();
                prop_assert_eq!(again, target);
            }
        }
    }
}
