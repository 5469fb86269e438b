use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;

use crate::MAX_FORWARDED_BODY;
use crate::body::{Answer, BoxBody, Limited};
use crate::pool::Pool;
use crate::problem::RouteProblem;
use crate::reply::{error_reply, too_large};
use crate::route::Origin;
use crate::service::Timeouts;

/// Request headers that pass. A list of what passes, since a list of what does not can never name every
/// header that some provider takes a credential or an account from.
const PASSED: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
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

/// A provider behind HTTP, and the key that is put in.
pub(crate) struct Upstream {
    pool: Arc<Pool>,
    authorization: Option<HeaderValue>,
    timeouts: Timeouts,
}

impl Upstream {
    pub(crate) fn new(origin: Origin, authorization: Option<HeaderValue>, timeouts: Timeouts) -> Self {
        Self { pool: Pool::new(origin, timeouts.connect), authorization, timeouts }
    }

    pub(crate) fn address(&self) -> String {
        self.pool.origin().display()
    }

    pub(crate) fn sends_key(&self) -> bool {
        self.authorization.is_some()
    }

    /// Send to `path` below the base URL. `headers` pass as they are; Host and key are added.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: BoxBody,
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
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let (response, lease) = self.pool.send(request, head_timeout).await?;
        if response.status().is_informational() {
            return Err(protocol("it switched protocols unasked".to_owned()));
        }
        Ok(response.map(|body| Answer::new(body, lease, self.timeouts.idle)))
    }

    /// Pass on a request from inside and its answer back. `path` is below the base URL.
    pub(crate) async fn forward(&self, parts: &Parts, path: &str, body: BoxBody) -> Response<BoxBody> {
        if hyper::body::Body::size_hint(&body).lower() > MAX_FORWARDED_BODY {
            return too_large(MAX_FORWARDED_BODY);
        }
        let exceeded = Arc::new(AtomicBool::new(false));
        let body = Limited::new(body, MAX_FORWARDED_BODY, exceeded.clone()).boxed_unsync();
        let path = match parts.uri.query().and_then(safe_query) {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let headers = safe_request_headers(&parts.headers);
        match self.send(parts.method.clone(), &path, headers, body, self.timeouts.head).await {
            Ok(response) if response.status().is_redirection() => {
                // The key must not follow, and the agent could not.
                error_reply(
                    StatusCode::BAD_GATEWAY,
                    "upstream_redirect",
                    "the provider redirects to another address; the operator must correct the endpoint URL",
                )
            }
            Ok(response) => {
                let (mut head, answer) = response.into_parts();
                clean_answer_headers(&mut head.headers);
                head.extensions.clear();
                Response::from_parts(head, answer.boxed_unsync())
            }
            Err(_) if exceeded.load(Ordering::Relaxed) => too_large(MAX_FORWARDED_BODY),
            Err(problem) => unreachable_reply(&problem),
        }
    }
}

/// What the agent is told: the class of the cause, never an address.
fn unreachable_reply(problem: &RouteProblem) -> Response<BoxBody> {
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

fn safe_request_headers(from: &HeaderMap) -> HeaderMap {
    let passes =
        |name: &HeaderName| PASSED.contains(&name.as_str()) || name.as_str().starts_with(PASSED_PREFIX);
    from.iter().filter(|(name, _)| passes(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn safe_query(query: &str) -> Option<String> {
    let is_credential = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        // An encoded name is never needed and could spell any of them.
        name.contains('%') || CREDENTIAL_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let kept: Vec<_> = query.split('&').filter(|pair| !pair.is_empty() && !is_credential(pair)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

fn clean_answer_headers(headers: &mut HeaderMap) {
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
        assert_eq!(names, ["accept", "x-stainless-lang"]);
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
