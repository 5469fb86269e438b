use crate::CredentialName;

/// Why a placeholder does not become its secret. Its text holds names only; it is for the agent and for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Something like a placeholder that is none, or not in one of the forms.
    #[error(
        "a placeholder has to be the whole value of a header, stand alone after its scheme, or be user or password of \
         Basic: clawkeep:secret:NAME"
    )]
    Malformed,
    /// In a header that servers keep or send back, so that the secret would be shown.
    #[error(
        "the header {0} carries no credentials: use Authorization, or one with key, token, auth or secret in its name"
    )]
    WrongHeader(String),
    /// Where no secret belongs: in a path, in a query.
    #[error("a placeholder in a URL is not replaced, because servers log URLs: put it into a header")]
    InUrl,
    /// In a request that asks to be sent back as it is (RFC 9110, 9.3.8).
    #[error("a secret may not be in a TRACE request: its answer is the request")]
    Traced,
    /// No credential of this name, for this sandbox at least.
    #[error("there is no credential {0} for this sandbox")]
    Unknown(CredentialName),
    /// It is for other hosts.
    #[error("the credential {name} is not bound to {host}")]
    OtherHost {
        /// The credential.
        name: CredentialName,
        /// `host:port` that the request is for.
        host: String,
    },
    /// Others could read it on the way.
    #[error("the credential {0} is sent only over TLS that the proxy looks into")]
    NotInspected(CredentialName),
    /// The secret cannot stand in that place of a header.
    #[error("the secret of the credential {0} cannot stand in a header")]
    Unfit(CredentialName),
}
