use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Ending, ExitCause, ExitReading, ExitVerdict, Expect, HealthSpec, Probe};

/// Where a command's health is asked: `http://127.0.0.1:PORT/path` or `tcp://127.0.0.1:PORT`, on the sandbox's
/// loopback and nowhere else. How often is said behind a `#`, which no server is sent: `#every=30s`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HealthUrl {
    port: u16,
    /// `None`: a connection is enough.
    path: Option<String>,
    /// The period in seconds; `None`: the usual one.
    every: Option<u16>,
}

/// Between two probes at most, in seconds.
const MAX_PERIOD: u16 = 600;

/// Why a text is no [`HealthUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HealthUrlError {
    /// Neither of the two.
    #[error("a health address begins with http:// or tcp://")]
    Scheme,
    /// Not the loopback.
    #[error("a health address is on 127.0.0.1 (or localhost), inside the sandbox")]
    NotLoopback,
    /// No port, or none that can be asked.
    #[error("a health address needs a port from 1 to 65535: http://127.0.0.1:8080/health")]
    Port,
    /// A period that is none.
    #[error("how often a health address is asked is said as #every=30s, with 1 to {MAX_PERIOD} seconds")]
    Every,
    /// A path that could not be sent as it is.
    #[error(
        "the path of a health address is plain text without white space and '#', at most 1024 characters"
    )]
    Path,
}

impl HealthUrl {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the supervisor asks: the same for life and readiness.
    pub fn spec(&self) -> HealthSpec {
        let probe = match &self.path {
            Some(path) => Probe::Http { path: path.clone(), expect: Expect::AnyAnswer },
            None => Probe::Tcp,
        };
        let spec = HealthSpec::new(self.port, probe.clone(), probe, 60);
        match self.every {
            Some(seconds) => spec.every(Duration::from_secs(seconds.into())),
            None => spec,
        }
    }
}

impl FromStr for HealthUrl {
    type Err = HealthUrlError;

    fn from_str(text: &str) -> Result<Self, HealthUrlError> {
        let (text, every) = match text.split_once("#every=") {
            Some((text, every)) => (text, Some(period(every).ok_or(HealthUrlError::Every)?)),
            None => (text, None),
        };
        let (http, rest) = match (text.strip_prefix("http://"), text.strip_prefix("tcp://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(HealthUrlError::Scheme),
        };
        let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        if host != "127.0.0.1" && host != "localhost" {
            return Err(HealthUrlError::NotLoopback);
        }
        // u16::from_str takes a sign.
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or(HealthUrlError::Port)?;
        let plain = path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        let fits =
            if http { path.is_empty() || path.starts_with('/') } else { path.is_empty() || path == "/" };
        if !plain || !fits {
            return Err(HealthUrlError::Path);
        }
        let path = http.then(|| if path.is_empty() { "/".to_owned() } else { path.to_owned() });
        Ok(Self { port, path, every })
    }
}

/// `30s`: whole seconds, and no sign.
fn period(text: &str) -> Option<u16> {
    let digits = text.strip_suffix('s').filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|seconds| (1..=MAX_PERIOD).contains(seconds))
}

impl fmt::Display for HealthUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "http://127.0.0.1:{}{path}", self.port)?,
            None => write!(f, "tcp://127.0.0.1:{}", self.port)?,
        }
        self.every.map_or(Ok(()), |seconds| write!(f, "#every={seconds}s"))
    }
}

impl Serialize for HealthUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HealthUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the end of a command means: we know nothing about it, so 0 without an order is its own wish, and it is
/// started again all the same (an always-on agent is what was asked for).
pub fn exit_reading(ending: Ending, ordered: bool) -> ExitReading {
    let (verdict, causes): (_, &'static [ExitCause]) = match ending {
        _ if ordered => (ExitVerdict::Ordered, &[]),
        Ending::Code(0) => (ExitVerdict::CleanUnordered, &[ExitCause::OwnWish]),
        Ending::Code(_) => (ExitVerdict::Crash, &[ExitCause::UnhandledError]),
        Ending::Signal(_) => (ExitVerdict::Crash, &[ExitCause::KilledBySignal]),
    };
    ExitReading { verdict, causes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loopback_addresses_are_taken_and_all_others_refused_with_the_reason() {
        for (text, port, shown) in [
            ("http://127.0.0.1:8080/health?x=1", 8080, "http://127.0.0.1:8080/health?x=1"),
            ("http://localhost:1", 1, "http://127.0.0.1:1/"),
            ("tcp://127.0.0.1:65535", 65535, "tcp://127.0.0.1:65535"),
            ("tcp://127.0.0.1:9#every=1s", 9, "tcp://127.0.0.1:9#every=1s"),
            ("http://127.0.0.1:9#every=600s", 9, "http://127.0.0.1:9/#every=600s"),
        ] {
            let url: HealthUrl = text.parse().unwrap();
            assert_eq!((url.port(), url.to_string().as_str()), (port, shown));
        }
        for (text, error) in [
            ("https://127.0.0.1:1/", HealthUrlError::Scheme),
            ("127.0.0.1:80", HealthUrlError::Scheme),
            ("http://127.0.0.1/health", HealthUrlError::Port),
            ("http://127.0.0.1:0/", HealthUrlError::Port),
            ("http://127.0.0.1:65536/", HealthUrlError::Port),
            ("http://127.0.0.1:+80/", HealthUrlError::Port),
            ("http://10.0.0.1:80/", HealthUrlError::NotLoopback),
            ("http://127.0.0.1:80@evil:90/", HealthUrlError::NotLoopback),
            ("http://evil@127.0.0.1:80/", HealthUrlError::NotLoopback),
            ("http://127.0.0.1.evil:80/", HealthUrlError::NotLoopback),
            ("http://127.0.0.1:80/a b", HealthUrlError::Path),
            ("http://127.0.0.1:80/\r\nHost: x", HealthUrlError::Path),
            ("http://127.0.0.1:80?x", HealthUrlError::Path),
            ("http://127.0.0.1:80/#x", HealthUrlError::Path),
            ("http://127.0.0.1:80/#x#every=1s", HealthUrlError::Path),
            ("tcp://127.0.0.1:80/x", HealthUrlError::Path),
            ("tcp://127.0.0.1:80#every=0s", HealthUrlError::Every),
            ("tcp://127.0.0.1:80#every=601s", HealthUrlError::Every),
            ("tcp://127.0.0.1:80#every=+1s", HealthUrlError::Every),
            ("tcp://127.0.0.1:80#every=1", HealthUrlError::Every),
            ("tcp://127.0.0.1:80#every=s", HealthUrlError::Every),
        ] {
            assert_eq!(text.parse::<HealthUrl>(), Err(error), "{text}");
        }
        let tcp: HealthUrl = "tcp://127.0.0.1:9".parse().unwrap();
        assert_eq!(tcp.spec().ready, Probe::Tcp);
        let slow: HealthUrl = "http://127.0.0.1:9/x#every=30s".parse().unwrap();
        assert_eq!((slow.spec().period_ms, slow.spec().patience_ms), (30_000, 28_500));
    }

    #[test]
    fn zero_without_an_order_is_its_own_wish() {
        assert_eq!(exit_reading(Ending::Code(0), false).verdict, ExitVerdict::CleanUnordered);
        assert_eq!(exit_reading(Ending::Code(78), false).verdict, ExitVerdict::Crash);
        assert_eq!(exit_reading(Ending::Signal(11), false).verdict, ExitVerdict::Crash);
        assert_eq!(exit_reading(Ending::Code(3), true).verdict, ExitVerdict::Ordered);
    }

    proptest! {
        #[test]
        fn what_is_accepted_reads_the_same_again(text in "(http|tcp)://(127.0.0.1|localhost):[0-9]{1,5}(|/\\PC{0,20})(|#every=[0-9]{1,3}s)") {
            if let Ok(url) = text.parse::<HealthUrl>() {
                prop_assert_eq!(url.to_string().parse::<HealthUrl>(), Ok(url.clone()));
                prop_assert!(!url.to_string().contains(char::is_whitespace));
            }
        }
    }
}
