use std::time::Duration;

/// What keeps a route from answering. Its text is for the operator and holds no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteProblem {
    /// The host's name does not resolve.
    #[error("the name {host} does not resolve: {cause}")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's word.
        cause: String,
    },
    /// Nothing accepts connections there.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The system's word.
        cause: String,
    },
    /// The TLS handshake failed, or the certificate is not trusted.
    #[error("TLS with {address} failed: {cause}")]
    Tls {
        /// `host:port`.
        address: String,
        /// What failed.
        cause: String,
    },
    /// Too slow.
    #[error("{address} did not {what} within {} s", .after.as_secs_f32())]
    Timeout {
        /// `host:port`.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// 401 or 403: the key is missing, wrong or not allowed.
    #[error("{address} {} (HTTP {status})", if *.key_sent { "refuses the key" } else { "wants a key" })]
    Unauthorized {
        /// `host:port`.
        address: String,
        /// The status.
        status: u16,
        /// Whether a key was sent.
        key_sent: bool,
    },
    /// The key is stored and cannot be read.
    #[error("the key of this route cannot be read: {cause}")]
    KeyUnreadable {
        /// Why.
        cause: String,
    },
    /// The provider lives, but has no such model.
    #[error("{address} has no model {model:?}{}", some_of(.available))]
    ModelAbsent {
        /// `host:port`.
        address: String,
        /// The model that was asked for.
        model: String,
        /// Some that it has, at most eight.
        available: Vec<String>,
    },
    /// What answers there does not speak HTTP/1.1 or the provider's API.
    #[error("{address} gave no usable answer: {cause}")]
    Protocol {
        /// `host:port`.
        address: String,
        /// What was wrong.
        cause: String,
    },
    /// Another status than success.
    #[error("{address} answered HTTP {status}{}", if .message.is_empty() { String::new() } else { format!(": {}", .message) })]
    UpstreamStatus {
        /// `host:port`.
        address: String,
        /// The status.
        status: u16,
        /// The beginning of what it said, made safe to print.
        message: String,
    },
}

fn some_of(models: &[String]) -> String {
    if models.is_empty() { String::new() } else { format!("; it has {}", models.join(", ")) }
}

/// The command that starts the server of models that listens at this address by default.
fn started_by(address: &str) -> Option<&'static str> {
    let local = ["127.0.0.1:", "localhost:", "[::1]:"];
    match local.iter().find_map(|host| address.strip_prefix(host))? {
        "11434" => Some("ollama serve"),
        "8000" => Some("vllm serve MODEL, or the NIM container with -p 8000:8000"),
        "8081" => Some("llama-server --port 8081 -m MODEL.gguf"),
        _ => None,
    }
}

impl RouteProblem {
    /// A stable word for the cause, safe to show inside a sandbox.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Unauthorized { .. } => "unauthorized",
            Self::KeyUnreadable { .. } => "key_unreadable",
            Self::ModelAbsent { .. } => "model_absent",
            Self::Protocol { .. } => "protocol",
            Self::UpstreamStatus { .. } => "status",
        }
    }

    /// The next step for the operator: one sentence.
    pub fn next_step(&self) -> String {
        match self {
            Self::Dns { host, .. } => {
                format!(
                    "Check the host name in --endpoint-url and that this machine resolves it: getent hosts {host}"
                )
            }
            Self::Connect { address, .. } if started_by(address).is_some() => {
                format!("Start it on this machine: {}", started_by(address).unwrap_or_default())
            }
            Self::Connect { address, .. } => {
                format!(
                    "Start the model server, or correct --endpoint-url: nothing accepts connections at {address}."
                )
            }
            Self::Tls { .. } => {
                "Check that the endpoint speaks https, and install its certificate authority on this machine \
                 (Debian: apt-get install ca-certificates)."
                    .to_owned()
            }
            Self::Timeout { .. } => {
                "Check that the model server is not overloaded or still loading the model, then try again."
                    .to_owned()
            }
            Self::Unauthorized { key_sent: true, .. } => {
                "Check the key: it may be wrong, expired or without access to this model. Another one: clawkeep \
                 credentials add route-key --sandbox NAME"
                    .to_owned()
            }
            Self::Unauthorized { key_sent: false, .. } => {
                "Give a key in the provider's variable (COMPATIBLE_API_KEY for an endpoint of your own); to a sandbox \
                 that has this route: clawkeep credentials add route-key --sandbox NAME"
                    .to_owned()
            }
            Self::KeyUnreadable { .. } => {
                "Store the key again: clawkeep credentials add route-key --sandbox NAME".to_owned()
            }
            Self::ModelAbsent { address, model, .. } if address.ends_with(":11434") => {
                format!("Fetch the model: ollama pull {model}")
            }
            Self::ModelAbsent { .. } => "Choose a model that the provider has: --model NAME".to_owned(),
            Self::Protocol { .. } | Self::UpstreamStatus { status: 300..=399 | 404 | 405, .. } => {
                "Check --endpoint-url: it is the base of an OpenAI-compatible API and mostly ends in /v1, or for \
                 anthropicCompatible the address before /v1/messages."
                    .to_owned()
            }
            Self::UpstreamStatus { status: 429, .. } => {
                "The provider limits this key; wait, or choose another provider.".to_owned()
            }
            Self::UpstreamStatus { .. } => "See the model server's own log, then try again.".to_owned(),
        }
    }
}

/// Text from outside, fit for one line: no control characters, bounded.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(limit)
        .collect::<String>()
        .trim()
        .to_owned()
}
