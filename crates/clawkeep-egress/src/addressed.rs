//! Where a request wants to go, by everything that it says about it, which must agree.

use clawkeep_policy::{RequestPath, Target};
use http::{Method, Request, header};

use crate::event::{printable, printable_host};
use crate::hold::Asked;
use crate::refusal::{Refusal, Subject};

/// The scheme of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A refusal, and what of.
pub(crate) type Refused = (Refusal, Subject);

/// The target of a request, which its authority and its Host field name alike; on a connection that is for one
/// target, that one.
pub(crate) fn target_of<B>(
    request: &Request<B>,
    scheme: Scheme,
    only: Option<&Target>,
) -> Result<Target, Refused> {
    let protocol = |what| (Refusal::Protocol(what), Subject::default());
    if request.method() == Method::CONNECT {
        return Err(protocol("a CONNECT must be the first request of a connection"));
    }
    let read = |text: &[u8]| {
        Target::parse(text, Some(scheme.default_port())).map_err(|_| {
            let subject = Subject { host: printable_host(text), ..Subject::default() };
            (Refusal::Malformed, subject)
        })
    };
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = hosts.next().map(|host| read(host.as_bytes())).transpose()?;
    if hosts.next().is_some() {
        return Err(protocol("the request has several Host fields"));
    }
    let uri = request.uri();
    let asked = match uri.authority() {
        Some(_) if uri.scheme_str() != Some(scheme.as_str()) => {
            return Err(protocol("the request's scheme is not the connection's"));
        }
        Some(authority) => Some(read(authority.as_str().as_bytes())?),
        None => None,
    };
    let mut targets = only.into_iter().chain(&asked).chain(&named);
    let first = targets.next().ok_or_else(|| protocol("the request names no host"))?;
    if let Some(other) = targets.find(|other| *other != first) {
        let subject = Subject { host: first.host().to_owned(), port: first.port(), ..Subject::default() };
        return Err((Refusal::OtherHost(other.to_string()), subject));
    }
    Ok(first.clone())
}

/// What the policy is asked about a request: its method, and its path in the one spelling in which it is sent on.
pub(crate) fn asked_of<B>(request: &Request<B>, target: &Target) -> Result<Asked, Refused> {
    let method = request.method().as_str().to_owned();
    let whole = request.uri().path_and_query().map_or("/", |path| path.as_str());
    match RequestPath::parse(whole) {
        Ok(path) => Ok(Asked { method, path, upgrade: request.headers().contains_key(header::UPGRADE) }),
        Err(error) => {
            let path = whole.split('?').next().unwrap_or_default();
            Err((Refusal::Path(error.to_string()), subject_of(target, &method, path)))
        }
    }
}

/// What a refusal of a request is about. The query is left out: it may be a secret.
pub(crate) fn subject_of(target: &Target, method: &str, path: &str) -> Subject {
    Subject {
        host: target.host().to_owned(),
        port: target.port(),
        method: Some(printable(method.as_bytes())),
        path: Some(printable(path.as_bytes())),
    }
}
