//! How a refusal is told.

use bytes::Bytes;
use clawkeep_inference::BoxBody;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use crate::head::HeadError;
use crate::verdict::{Reason, Verdict};

/// The status that a denial has.
pub(crate) fn status_of(verdict: &Verdict) -> StatusCode {
    match verdict.reason {
        Reason::Malformed | Reason::Protocol => StatusCode::BAD_REQUEST,
        Reason::OtherHost => StatusCode::MISDIRECTED_REQUEST,
        Reason::Connections => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    }
}

fn body_of(verdict: &Verdict, detail: Option<HeadError>) -> String {
    let code = match verdict.reason {
        Reason::Malformed | Reason::Protocol => "bad_request",
        Reason::Connections => "too_many_connections",
        _ => "egress_denied",
    };
    let message = detail.map_or_else(|| verdict.message(), |detail| detail.to_string());
    json!({"error": {
        "code": code,
        "host": verdict.host,
        "port": verdict.port,
        "message": message,
        "next": verdict.next(),
    }})
    .to_string()
}

/// A denial as hyper sends it; the connection ends with it.
pub(crate) fn reply(verdict: &Verdict) -> Response<BoxBody> {
    let body = Full::new(Bytes::from(body_of(verdict, None))).map_err(|never| match never {}).boxed_unsync();
    let mut reply = Response::new(body);
    *reply.status_mut() = status_of(verdict);
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// A denial as it is written where hyper does not serve: before or instead of a tunnel.
pub(crate) fn raw(status: StatusCode, verdict: &Verdict, detail: Option<HeadError>) -> Vec<u8> {
    let body = body_of(verdict, detail);
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    )
    .into_bytes()
}
