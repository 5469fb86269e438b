//! Answers that clients of either API understand.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::{BoxBody, full};

/// A JSON answer.
pub(crate) fn json_reply(status: StatusCode, value: &Value) -> Response<BoxBody> {
    let mut reply = Response::new(full(Bytes::from(value.to_string())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

/// An error in the shape that clients of the OpenAI API know, and with the outer `type` of Anthropic's, which
/// they ignore. `code` is stable, `message` is for people.
pub(crate) fn error_reply(status: StatusCode, code: &str, message: &str) -> Response<BoxBody> {
    let kind = if status.is_client_error() { "invalid_request_error" } else { "api_error" };
    let error = json!({"message": message, "type": kind, "param": null, "code": code});
    json_reply(status, &json!({"type": "error", "error": error}))
}

pub(crate) fn too_large(limit: u64) -> Response<BoxBody> {
    let message = format!("the request body is larger than {} MiB", limit >> 20);
    error_reply(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &message)
}
