use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What happens to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is carried.
    Allow,
    /// It is refused, or was carried and is cut off now.
    Deny,
    /// An allowed connection has ended: the event has its bytes and its time.
    End,
}

/// Why. Written in snake case in JSON; the names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The model route.
    ModelRoute,
    /// A rule of the policy.
    Rule,
    /// A rule that only watches: without `enforcement: audit` it would be refused.
    Audit,
    /// The model route's host, at a port where it does not answer.
    ModelPort,
    /// What was asked for names no target, or no path that everybody reads in the same way.
    Malformed,
    /// On a connection to one host, a request or a TLS greeting for another.
    OtherHost,
    /// What the proxy protocol does not have, or what is not strict HTTP or TLS.
    Protocol,
    /// A request head or a greeting that took too long.
    Slow,
    /// Too many connections at once.
    Connections,
    /// The name leads to one of this host's own addresses on the Internet.
    OwnAddress,
    /// The name has no address.
    Unresolved,
    /// No address answers.
    Unreachable,
    /// The origin's certificate is not one that this host trusts, or its TLS is broken.
    Untrusted,
    /// The origin's answer cannot be carried.
    BadAnswer,
    /// The policy has changed.
    Revoked,
    /// A placeholder for a secret that is not replaced.
    Secret,
    /// A name that was looked up under a wildcard is too long.
    LongName,
    /// Too many different names were looked up under wildcards.
    ManyNames,
    /// The policy refuses it.
    #[serde(untagged)]
    Policy(clawkeep_policy::Reason),
}

/// One decision, or the end of what was allowed. Its texts are bounded and free of control characters, and hold
/// neither a user part nor a query, which may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Allowed or not.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The canonical host; for what is malformed, its printable beginning.
    pub host: String,
    /// The port; 0 where none could be read, and for a name that was only looked up.
    pub port: u16,
    /// The rule that decided, or that came nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Of a request: its method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Of a request: its canonical path, at most 256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The executable that asked, where the policy wanted to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The address that was dialed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// At the end: bytes from the sandbox, bytes to it, milliseconds from the decision.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// For people: what was refused and why, one sentence. Empty where nothing was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How much went over a connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct End {
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
    /// Milliseconds since it was allowed.
    pub millis: u64,
}

impl Event {
    /// An event about a target; what else is known is filled in.
    pub(crate) fn about(host: &str, port: u16, action: Action, reason: Reason) -> Self {
        Self {
            action,
            reason,
            host: host.to_owned(),
            port,
            rule: None,
            method: None,
            path: None,
            caller: None,
            address: None,
            end: None,
            message: String::new(),
        }
    }

    /// Whether it is a refusal.
    pub fn denies(&self) -> bool {
        self.action == Action::Deny
    }
}

/// How many decisions a proxy has made: all of them, those too whose event found nobody to hear it.
#[derive(Debug, Default)]
pub struct Verdicts {
    allowed: AtomicU64,
    refused: AtomicU64,
}

impl Verdicts {
    pub(crate) fn count(&self, action: Action) {
        let counter = match action {
            Action::Allow => &self.allowed,
            Action::Deny => &self.refused,
            Action::End => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was allowed.
    pub fn allowed(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// How often it was refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The longest text of an event, in characters: a longer one is cut off.
pub const MAX_TEXT: usize = 256;

/// The printable beginning of hostile bytes, for logs: everything but plain ASCII replaced.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let plain = |b: &u8| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '?' };
    bytes.iter().take(MAX_TEXT).map(plain).collect()
}

/// The printable beginning of what should have been a host, without a user part: it may be a password.
pub(crate) fn printable_host(bytes: &[u8]) -> String {
    let start = bytes.iter().rposition(|b| *b == b'@').map_or(0, |at| at + 1);
    let mut text = printable(&bytes[start..]);
    text.truncate(128);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_bounded_and_hold_no_password() {
        assert_eq!(printable_host(b"user:hunter2@ev\x1b[2Jil\n:443"), "ev?[2Jil?:443");
        assert_eq!(printable_host(&[b'a'; 9000]).len(), 128);
        assert_eq!(printable(&[b'a'; 9000]).len(), MAX_TEXT);
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let mut event = Event::about("x", 1, Action::Deny, Reason::OtherHost);
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"action":"deny","reason":"other_host","host":"x","port":1}"#
        );
        event.reason = Reason::Policy(clawkeep_policy::Reason::CallerUnknown);
        event.end = Some(End { sent: 1, received: 2, millis: 3 });
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"action":"deny","reason":"caller_unknown","host":"x","port":1,"sent":1,"received":2,"millis":3}"#
        );
    }
}
