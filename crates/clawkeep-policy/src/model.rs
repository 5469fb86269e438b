//! The typed form of a policy. Made by the reader only, so everything here is valid.

use std::fmt;

use crate::cidr::Cidr;
use crate::glob::Glob;
use crate::host::HostPattern;

/// A policy: what a sandbox may reach, and what its file says about files and users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub(crate) preset: Option<PresetHead>,
    pub(crate) filesystem: Option<Filesystem>,
    pub(crate) landlock: Option<Landlock>,
    pub(crate) process: Option<Process>,
    pub(crate) network: Vec<NetworkRule>,
}

/// The head of a preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PresetHead {
    pub(crate) name: String,
    pub(crate) description: String,
}

/// `filesystem_policy`: read, checked against the walls that every sandbox has, and kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filesystem {
    pub(crate) include_workdir: Option<bool>,
    pub(crate) read_only: Vec<String>,
    pub(crate) read_write: Vec<String>,
}

/// `landlock`: kept; hard in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landlock {
    Unsaid,
    BestEffort,
    HardRequirement,
}

/// `process`: kept; always the user `sandbox`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) run_as_user: Option<String>,
    pub(crate) run_as_group: Option<String>,
}

/// One entry of `network_policies`: every program that it lists may reach every endpoint that it lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkRule {
    pub(crate) key: String,
    pub(crate) name: Option<String>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) binaries: Vec<Glob>,
}

/// A place, and what may be asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: HostPattern,
    pub(crate) ports: Vec<u16>,
    pub(crate) allowed_ips: Vec<Cidr>,
    /// Without an effect, since what is not inspected is passed through anyway: kept so that it is written again.
    pub(crate) tls_skip: bool,
    /// Whether requests may hold `%2F` in their path.
    pub(crate) allow_encoded_slash: bool,
    /// `None`: the connection is passed through.
    pub(crate) inspection: Option<Inspection>,
}

/// What is looked at in each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) protocol: Protocol,
    pub(crate) enforcement: Enforcement,
    /// For which paths this endpoint is the one of several on one host and port.
    pub(crate) selector: Option<Selector>,
    pub(crate) allow: Allow,
    pub(crate) deny: Vec<RequestRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP requests.
    Rest,
    /// A WebSocket upgrade, and then whatever is said over it.
    WebSocket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enforcement {
    Enforce,
    Audit,
}

/// What an inspected endpoint lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allow {
    Access(Access),
    Rules(Vec<RequestRule>),
}

/// The access presets, as OpenShell documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// GET, HEAD, OPTIONS.
    ReadOnly,
    /// These, and POST, PUT, PATCH.
    ReadWrite,
    /// Every method.
    Full,
}

impl Access {
    pub(crate) fn allows(self, method: &str) -> bool {
        match self {
            Self::ReadOnly => matches!(method, "GET" | "HEAD" | "OPTIONS"),
            Self::ReadWrite => matches!(method, "GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH"),
            Self::Full => true,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
            Self::Full => "full",
        }
    }
}

/// Requests, by method, path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestRule {
    pub(crate) method: Method,
    pub(crate) path: Glob,
    /// A parameter's name, and the patterns of which its value has to match one.
    pub(crate) query: Vec<(String, Vec<Glob>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Method {
    Any,
    /// In capitals.
    One(String),
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "*",
            Self::One(method) => method,
        })
    }
}

/// An endpoint's `path`: which of several endpoints on one host and port a request belongs to. By its own rules
/// (OpenShell, "Matcher Semantics"): `/v1/**` covers `/v1` too, and `*` crosses slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selector {
    text: String,
    kind: SelectorKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SelectorKind {
    Everything,
    /// The path itself, and everything below it.
    Tree(String),
    /// A pattern without separators.
    Pattern(Glob),
}

impl Selector {
    pub(crate) fn parse(text: &str) -> Result<Self, crate::glob::GlobError> {
        // No path holds a NUL, so nothing separates.
        let pattern = Glob::parse(text, 0)?;
        let kind = match text {
            "" | "**" | "/**" => SelectorKind::Everything,
            _ => match text.strip_suffix("/**") {
                Some(root) if !root.contains(['*', '?', '[']) => SelectorKind::Tree(root.to_owned()),
                _ => SelectorKind::Pattern(pattern),
            },
        };
        Ok(Self { text: text.to_owned(), kind })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn covers(&self, path: &str) -> bool {
        match &self.kind {
            SelectorKind::Everything => true,
            SelectorKind::Tree(root) => {
                path.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            SelectorKind::Pattern(pattern) => pattern.matches(path),
        }
    }

    /// The greater, the more specific: how many characters are said outright.
    pub(crate) fn specificity(&self) -> usize {
        match &self.kind {
            SelectorKind::Everything => 0,
            SelectorKind::Tree(root) => root.len(),
            SelectorKind::Pattern(_) => self.text.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count(),
        }
    }
}
