//! Why something is not carried, and how that is told.

use std::io;

use bytes::Bytes;
use clawkeep_inference::BoxBody;
use clawkeep_policy::Denial;
use http::{HeaderValue, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use crate::event::Reason;
use crate::head::HeadError;

/// Why something is not carried.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// The target cannot be read.
    Malformed,
    /// The path cannot be read in one way.
    Path(String),
    /// A head that the strict reading refuses.
    Head(HeadError),
    /// What this proxy does not carry, in words.
    Protocol(&'static str),
    Slow,
    Connections,
    ModelPort,
    /// A request or a greeting for this host, on a connection for another.
    OtherHost(String),
    Policy(Denial),
    OwnAddress,
    Unresolved,
    Unreachable(io::ErrorKind),
    Untrusted(String),
    BadAnswer,
    /// The new policy wants the connection inspected, or no longer.
    Revoked,
    /// A placeholder for a secret that is not replaced, in words.
    Secret(String),
}

impl Refusal {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Malformed | Self::Path(_) => Reason::Malformed,
            Self::Head(_) | Self::Protocol(_) => Reason::Protocol,
            Self::Slow => Reason::Slow,
            Self::Connections => Reason::Connections,
            Self::ModelPort => Reason::ModelPort,
            Self::OtherHost(_) => Reason::OtherHost,
            Self::Policy(denial) => Reason::Policy(denial.reason),
            Self::OwnAddress => Reason::OwnAddress,
            Self::Unresolved => Reason::Unresolved,
            Self::Unreachable(_) => Reason::Unreachable,
            Self::Untrusted(_) => Reason::Untrusted,
            Self::BadAnswer => Reason::BadAnswer,
            Self::Revoked => Reason::Revoked,
            Self::Secret(_) => Reason::Secret,
        }
    }

    /// The rule that came nearest.
    pub(crate) fn rule(&self) -> Option<String> {
        match self {
            Self::Policy(denial) => denial.rule.as_ref().map(ToString::to_string),
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Head(HeadError::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Malformed | Self::Path(_) | Self::Head(_) | Self::Protocol(_) => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Connections => StatusCode::SERVICE_UNAVAILABLE,
            Self::OtherHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::ModelPort | Self::Policy(_) | Self::OwnAddress | Self::Revoked | Self::Secret(_) => {
                StatusCode::FORBIDDEN
            }
            Self::Unreachable(io::ErrorKind::TimedOut) => StatusCode::GATEWAY_TIMEOUT,
            Self::Unresolved | Self::Unreachable(_) | Self::Untrusted(_) | Self::BadAnswer => {
                StatusCode::BAD_GATEWAY
            }
        }
    }

    /// A stable word for programs.
    fn code(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Path(_) | Self::Head(_) | Self::Protocol(_) | Self::Slow => "bad_request",
            Self::Connections => "too_many_connections",
            Self::OtherHost(_) | Self::ModelPort | Self::Policy(_) | Self::OwnAddress | Self::Revoked => {
                "egress_denied"
            }
            Self::Unresolved => "upstream_dns",
            Self::Unreachable(_) => "upstream_connect",
            Self::Untrusted(_) => "upstream_tls",
            Self::BadAnswer => "upstream_protocol",
            Self::Secret(_) => "secret_denied",
        }
    }

    /// What was refused and why, one sentence.
    pub(crate) fn message(&self, host: &str, port: u16) -> String {
        match self {
            Self::Malformed => "the request names no valid host and port".to_owned(),
            Self::Path(why) => format!("the request's path is not carried: {why}"),
            Self::Head(why) => why.to_string(),
            Self::Protocol(what) => (*what).to_owned(),
            Self::Slow => "the request took too long to arrive".to_owned(),
            Self::Connections => "this sandbox has too many connections open".to_owned(),
            Self::ModelPort => format!("{host} answers on ports 443 and 80, not on {port}"),
            Self::OtherHost(other) => {
                format!("this connection is for {host}, and what came on it is for {other}")
            }
            Self::Policy(denial) => format!("{host}:{port} is refused: {}", denial.message()),
            Self::OwnAddress => format!("{host} leads to the host of this sandbox itself"),
            Self::Unresolved => format!("{host} has no usable address"),
            Self::Unreachable(io::ErrorKind::TimedOut) => format!("{host}:{port} did not answer in time"),
            Self::Unreachable(_) => format!("{host}:{port} does not accept connections"),
            Self::Untrusted(why) => format!("{host}:{port} has no TLS that this host trusts: {why}"),
            Self::BadAnswer => format!("{host}:{port} gave no answer that can be carried"),
            Self::Revoked => format!("the policy has changed for {host}:{port}"),
            Self::Secret(why) => why.clone(),
        }
    }

    /// What to do about it, one sentence.
    fn next(&self, sandbox: &str) -> String {
        match self {
            Self::Connections => "Close some connections, then try again.".to_owned(),
            Self::Malformed | Self::Path(_) | Self::Head(_) | Self::Protocol(_) | Self::Slow => {
                "Send strict HTTP/1.1 through the proxy: CONNECT HOST:PORT, or GET http://HOST/PATH."
                    .to_owned()
            }
            Self::ModelPort => "Use https://inference.local/v1 for the model.".to_owned(),
            Self::OtherHost(_) => {
                "Open a connection for each host, and name it in Host and in SNI.".to_owned()
            }
            Self::Policy(_) | Self::Revoked => {
                format!("The operator can look at it, on the host: clawkeep {sandbox} policy requests")
            }
            Self::Secret(_) => {
                "The operator can look at it, on the host: clawkeep credentials list".to_owned()
            }
            Self::OwnAddress => {
                "The operator can allow that by the name host.openshell.internal, in the policy.".to_owned()
            }
            Self::Unresolved | Self::Unreachable(_) | Self::Untrusted(_) | Self::BadAnswer => {
                "The policy allows it; look at the name, the network and the other side.".to_owned()
            }
        }
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
}

fn body_of(refusal: &Refusal, subject: &Subject, sandbox: &str) -> String {
    let Subject { host, port, method, path } = subject;
    let mut error = json!({
        "code": refusal.code(),
        "reason": refusal.reason(),
        "host": host,
        "port": port,
        "message": refusal.message(host, *port),
        "next": refusal.next(sandbox),
    });
    for (name, value) in [("rule", &refusal.rule()), ("method", method), ("path", path)] {
        if let Some(value) = value {
            error[name] = json!(value);
        }
    }
    json!({ "error": error }).to_string()
}

/// A refusal as hyper sends it. Over HTTP/1.1 the connection ends with it.
pub(crate) fn reply(
    refusal: &Refusal,
    subject: &Subject,
    sandbox: &str,
    version: Version,
) -> Response<BoxBody> {
    let body = Full::new(Bytes::from(body_of(refusal, subject, sandbox)));
    let mut reply = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = refusal.status();
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if version != Version::HTTP_2 {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// A refusal as it is written where hyper does not serve: before or instead of a tunnel.
pub(crate) fn raw(refusal: &Refusal, subject: &Subject, sandbox: &str) -> Vec<u8> {
    let (status, body) = (refusal.status(), body_of(refusal, subject, sandbox));
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    )
    .into_bytes()
}
