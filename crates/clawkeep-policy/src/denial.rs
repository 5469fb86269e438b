use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// An endpoint of a policy, by its rule and its place there: `npm_yarn[0]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleName(Arc<str>);

impl RuleName {
    pub(crate) fn new(key: &str, index: usize) -> Self {
        Self(format!("{key}[{index}]").into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RuleName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Why something is refused. Written in snake case in JSON; the names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No rule names this host.
    Host,
    /// A rule names the host, at another port.
    Port,
    /// A rule names host and port, for other programs.
    Binary,
    /// A rule names host, port and programs, and which program asks cannot be told.
    CallerUnknown,
    /// An address in a spelling that every program reads in its own way: `127.1`, `0x7f000001`.
    OddAddress,
    /// An address that is not the Internet's, and that no `allowed_ips` lists.
    InternalAddress,
    /// An address outside of the rule's `allowed_ips`.
    UnlistedAddress,
    /// Loopback, link-local, unspecified, multicast, reserved: no policy opens it.
    SpecialAddress,
    /// A cloud's metadata service: no policy opens it.
    MetadataAddress,
    /// No rule allows such a request.
    Request,
    /// A `deny_rules` entry covers the request.
    DenyRule,
    /// The path holds `%2F` and the rule does not say `allow_encoded_slash`.
    EncodedSlash,
    /// A WebSocket, or another upgrade, where not every request is allowed.
    Upgrade,
    /// TRACE or CONNECT, which no policy allows on an inspected connection.
    Method,
}

/// A refusal: why, and the rule that came nearest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// The first rule that matched as far as the reason says; none where no rule names the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
}

impl Denial {
    pub(crate) fn new(reason: Reason, rule: Option<&RuleName>) -> Self {
        Self { reason, rule: rule.cloned() }
    }

    /// One sentence for people, without a full stop.
    pub fn message(&self) -> String {
        let rule = self.rule.as_ref().map_or("the rule", RuleName::as_str);
        match self.reason {
            Reason::Host => "no rule of the policy names this host".to_owned(),
            Reason::Port => format!("{rule} names this host, and not this port"),
            Reason::Binary => format!("{rule} names this host and port, and not this program"),
            Reason::CallerUnknown => {
                format!("{rule} is for certain programs, and which one asks cannot be told")
            }
            Reason::OddAddress => "an address is dialed in its plain spelling only".to_owned(),
            Reason::InternalAddress => "the address is internal, and no `allowed_ips` lists it".to_owned(),
            Reason::UnlistedAddress => format!("the address is not among the `allowed_ips` of {rule}"),
            Reason::SpecialAddress => {
                "no policy opens loopback, link-local, multicast or reserved addresses".to_owned()
            }
            Reason::MetadataAddress => "no policy opens a cloud's metadata service".to_owned(),
            Reason::Request => format!("{rule} allows other requests, and not this one"),
            Reason::DenyRule => format!("a deny rule of {rule} covers this request"),
            Reason::EncodedSlash => format!("{rule} does not say `allow_encoded_slash`"),
            Reason::Upgrade => {
                format!("{rule} allows some requests only, and nothing can be told apart in what is upgraded")
            }
            Reason::Method => "no policy allows this method".to_owned(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Denial {}
