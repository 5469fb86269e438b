use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};

use crate::body::{Answer, BoxBody};
use crate::hide::Hidden;
use crate::pool::Pool;
use crate::problem::RouteProblem;
use crate::reply::error_reply;
use crate::route::{KeyHeader, Route, RouteError};
use crate::service::Timeouts;
use crate::{Api, Secret};

/// Request headers that pass. A list of what passes, since a list of what does not can never name every
/// header that some provider takes a credential or an account from. `accept-encoding` is none of them: a
/// compressed stream comes in larger pieces, later.
const PASSED: &[&str] = &[
    "accept",
    "accept-language",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "http-referer",
    "idempotency-key",
    "openai-beta",
    "traceparent",
    "user-agent",
    "x-client-request-id",
    "x-request-id",
    "x-title",
];
const PASSED_PREFIX: &str = "x-stainless-";

/// Query parameters that some providers take a key from.
const CREDENTIAL_PARAMETERS: &[&str] =
    &["key", "api_key", "api-key", "apikey", "access_token", "token", "auth"];

/// Answer headers that do not pass, besides those of the connection.
const DROPPED_FROM_ANSWER: &[&str] = &[
    "alt-svc",
    "content-location",
    "location",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "www-authenticate",
];

const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The version of Anthropic's API that is named where the agent names none.
const DEFAULT_ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// A provider behind HTTP, and the key that is put in.
pub(crate) struct Upstream {
    pool: Arc<Pool>,
    api: Api,
    key: Option<KeyHeader>,
    hidden: Option<Hidden>,
    timeouts: Timeouts,
}

impl Upstream {
    pub(crate) fn new(route: &Route, key: Option<&Secret>, timeouts: Timeouts) -> Result<Self, RouteError> {
        Ok(Self {
            pool: Pool::new(route.origin()?, timeouts.connect),
            api: route.provider.api(),
            key: route.key_header(key)?,
            hidden: key.and_then(Hidden::new),
            timeouts,
        })
    }

    pub(crate) fn api(&self) -> Api {
        self.api
    }

    pub(crate) fn address(&self) -> String {
        self.pool.origin().display()
    }

    pub(crate) fn sends_key(&self) -> bool {
        self.key.is_some()
    }

    /// Send to `path` below the base URL. `headers` pass as they are; Host and key are added. `replay` is the whole
    /// body, if that is known.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: BoxBody,
        replay: Option<&Bytes>,
        head_timeout: Duration,
    ) -> Result<Response<Answer>, RouteProblem> {
        let origin = self.pool.origin();
        let protocol = |cause: String| RouteProblem::Protocol { address: origin.display(), cause };
        let target: Uri = format!("{}{path}", origin.path)
            .parse()
            .map_err(|_| protocol("the request's path cannot be sent".to_owned()))?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(&origin.authority).map_err(|error| protocol(error.to_string()))?;
        request.headers_mut().insert(header::HOST, host);
        if self.api == Api::Anthropic {
            let version = request.headers_mut().entry(ANTHROPIC_VERSION);
            version.or_insert(DEFAULT_ANTHROPIC_VERSION);
        }
        if let Some((name, value)) = &self.key {
            request.headers_mut().insert(name, value.clone());
        }
        let (mut response, lease) = self.pool.send(request, replay, head_timeout).await?;
        if response.status().is_informational() {
            return Err(protocol("it switched protocols unasked".to_owned()));
        }
        if let Some(hidden) = &self.hidden {
            hidden.cover_headers(response.headers_mut());
        }
        Ok(response.map(|body| Answer::new(body, lease, self.timeouts.idle, self.hidden.clone())))
    }
}

/// What the agent is told: the class of the cause, never an address.
pub(crate) fn unreachable_reply(problem: &RouteProblem) -> Response<BoxBody> {
    let (status, what) = match problem {
        RouteProblem::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "did not answer in time"),
        RouteProblem::Dns { .. } => (StatusCode::BAD_GATEWAY, "cannot be found (DNS)"),
        RouteProblem::Connect { .. } => (StatusCode::BAD_GATEWAY, "does not accept connections"),
        RouteProblem::Tls { .. } => (StatusCode::BAD_GATEWAY, "has no TLS that this machine trusts"),
        _ => (StatusCode::BAD_GATEWAY, "gave no usable answer"),
    };
    let message =
        format!("the model's provider {what}; the agent is fine, the operator must look at the route");
    error_reply(status, &format!("upstream_{}", problem.class()), &message)
}

pub(crate) fn safe_request_headers(from: &HeaderMap) -> HeaderMap {
    let passes =
        |name: &HeaderName| PASSED.contains(&name.as_str()) || name.as_str().starts_with(PASSED_PREFIX);
    from.iter().filter(|(name, _)| passes(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

pub(crate) fn safe_query(query: &str) -> Option<String> {
    let is_credential = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        // An encoded name is never needed and could spell any of them.
        name.contains('%') || CREDENTIAL_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let kept: Vec<_> = query.split('&').filter(|pair| !pair.is_empty() && !is_credential(pair)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

pub(crate) fn clean_answer_headers(headers: &mut HeaderMap) {
    clawkeep_outbound::strip(headers);
    for name in DROPPED_FROM_ANSWER {
        headers.remove(*name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_request_headers_pass() {
        let mut headers = HeaderMap::new();
        for name in [
            "accept",
            "anthropic-version",
            "accept-encoding",
            "anthropic-dangerous-direct-browser-access",
            "x-stainless-lang",
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "cookie",
            "proxy-authorization",
            "openai-organization",
            "connection",
            "te",
            "x-forwarded-for",
            "host",
            "content-length",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let kept = safe_request_headers(&headers);
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "anthropic-version", "x-stainless-lang"]);
    }

    #[test]
    fn credentials_leave_the_query() {
        assert_eq!(safe_query("limit=2&key=AIza&after=x"), Some("limit=2&after=x".into()));
        assert_eq!(safe_query("API_KEY=1&k%65y=2&&token"), None);
    }

    #[test]
    fn answers_lose_what_belongs_to_the_connection() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("x-hop, content-length"));
        headers.insert("x-hop", HeaderValue::from_static("v"));
        headers.insert("set-cookie", HeaderValue::from_static("v"));
        headers.insert("content-length", HeaderValue::from_static("3"));
        headers.insert("x-request-id", HeaderValue::from_static("v"));
        clean_answer_headers(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "x-request-id"]);
    }
}
