use serde::Serialize;

use clawkeep_policy::Target;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is answered.
    Allow,
    /// It is refused.
    Deny,
}

/// Why. Written in snake case in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The model route.
    ModelRoute,
    /// The model route's host, at a port where it does not answer.
    Port,
    /// A host that nothing allows.
    Host,
    /// An address where only names can be allowed.
    Address,
    /// What was asked for names no target.
    Malformed,
    /// Inside a tunnel to one host, a request for another.
    OtherHost,
    /// A request that the proxy protocol does not have, or that is not strict HTTP/1.1.
    Protocol,
    /// Too many connections at once.
    Connections,
}

/// The one answer to "may this leave the sandbox?". Its text is bounded and free of control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Allowed or not.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The canonical host; for what is malformed, its printable beginning without a user part.
    pub host: String,
    /// The port; 0 where none could be read.
    pub port: u16,
}

/// Decide about a target. Pure: the same target always gets the same verdict.
pub fn decide(target: &Target) -> Verdict {
    let (action, reason) = if target.host() == clawkeep_inference::HOST {
        match target.port() {
            80 | 443 => (Action::Allow, Reason::ModelRoute),
            _ => (Action::Deny, Reason::Port),
        }
    } else if target.is_address() {
        (Action::Deny, Reason::Address)
    } else {
        (Action::Deny, Reason::Host)
    };
    Verdict { action, reason, host: target.host().to_owned(), port: target.port() }
}

impl Verdict {
    /// Whether it is allowed.
    pub fn allows(&self) -> bool {
        self.action == Action::Allow
    }

    /// The verdict on a target that could not be read.
    pub(crate) fn malformed(asked: &[u8]) -> Self {
        Self::deny(Reason::Malformed, printable(asked), 0)
    }

    pub(crate) fn deny(reason: Reason, host: String, port: u16) -> Self {
        Self { action: Action::Deny, reason, host, port }
    }

    /// What was refused and why, one sentence.
    pub fn message(&self) -> String {
        let Self { host, port, .. } = self;
        match self.reason {
            Reason::ModelRoute => format!("{host}:{port} is the model route"),
            Reason::Port => format!("{host} answers on ports 443 and 80, not on {port}"),
            Reason::Host => format!("nothing allows this sandbox to reach {host}:{port}"),
            Reason::Address => format!("nothing allows this sandbox to reach the address {host}:{port}"),
            Reason::Malformed => "the request names no valid host and port".to_owned(),
            Reason::OtherHost => format!("this connection is for inference.local, the request is for {host}"),
            Reason::Protocol => "this is not a request that the proxy carries".to_owned(),
            Reason::Connections => "this sandbox has too many connections open".to_owned(),
        }
    }

    /// What to do about it, one sentence.
    pub fn next(&self) -> &'static str {
        match self.reason {
            Reason::Connections => "Close some connections, then try again.",
            Reason::Protocol => {
                "Use HTTP/1.1 through the proxy: CONNECT inference.local:443, or GET http://inference.local/v1/models."
            }
            _ => {
                "Use https://inference.local/v1 for the model; nothing else leaves the sandbox in this version."
            }
        }
    }
}

/// The printable beginning of hostile bytes, for logs: at most 128 characters, without a user part (it may be
/// a password), everything but plain ASCII replaced.
fn printable(bytes: &[u8]) -> String {
    let start = bytes.iter().rposition(|b| *b == b'@').map_or(0, |at| at + 1);
    bytes[start..].iter().take(128).map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> (Action, Reason) {
        let verdict = decide(&Target::parse(text.as_bytes(), None).unwrap());
        (verdict.action, verdict.reason)
    }

    #[test]
    fn one_host_on_two_ports_and_nothing_else() {
        for good in ["inference.local:443", "inference.local:80", "INFERENCE.LOCAL.:443"] {
            assert_eq!(verdict(good), (Action::Allow, Reason::ModelRoute), "{good}");
        }
        for bad in ["inference.local:22", "inference.local:8080", "inference.local:1"] {
            assert_eq!(verdict(bad), (Action::Deny, Reason::Port), "{bad}");
        }
        for bad in [
            "inference.local.evil.com:443",
            "evil.inference.local:443",
            "inference-local:443",
            "xinference.local:443",
            "localhost:443",
            "metadata.google.internal:80",
            "api.openai.com:443",
        ] {
            assert_eq!(verdict(bad), (Action::Deny, Reason::Host), "{bad}");
        }
        for bad in [
            "169.254.169.254:80",
            "127.0.0.1:443",
            "0.0.0.0:80",
            "[::1]:443",
            "[::ffff:127.0.0.1]:443",
            "[fd00:ec2::254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "2130706433:80",
            "0x7f000001:80",
            "0177.0.0.1:80",
            "127.1:80",
        ] {
            assert_eq!(verdict(bad), (Action::Deny, Reason::Address), "{bad}");
        }
    }

    #[test]
    fn logs_of_hostile_bytes_are_bounded_and_hold_no_password() {
        let verdict = Verdict::malformed(b"user:hunter2@ev\x1b[2Jil\n:443");
        assert_eq!(verdict.host, "ev?[2Jil?:443");
        let verdict = Verdict::malformed(&[b'a'; 9000]);
        assert_eq!(verdict.host.len(), 128);
        assert_eq!(
            serde_json::to_string(&Verdict::deny(Reason::OtherHost, "x".into(), 1)).unwrap(),
            r#"{"action":"deny","reason":"other_host","host":"x","port":1}"#
        );
    }
}
