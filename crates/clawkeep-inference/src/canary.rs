use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::MAX_CANARY_BODY;
use crate::body::{BoxBody, Unread, full, read_whole};
use crate::reply::{error_reply, json_reply, too_large};

/// The one model that the canary lists.
pub const CANARY_MODEL: &str = "canary";

/// What the canary answers to everything.
pub const CANARY_ANSWER: &str = "This is Clawkeep's built-in canary, not a language model. That you read this \
    means that the whole path works: the sandbox, its guards, its proxy and the route behind inference.local. \
    To set a real model, run: clawkeep inference set --provider custom --endpoint-url URL --model M";

static COUNTER: AtomicU64 = AtomicU64::new(1);

#[derive(Deserialize)]
struct ChatRequest {
    messages: Vec<Value>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// `GET /v1/models`.
pub(crate) fn models() -> Response<BoxBody> {
    let model = json!({"id": CANARY_MODEL, "object": "model", "created": now(), "owned_by": "clawkeep"});
    json_reply(StatusCode::OK, &json!({"object": "list", "data": [model]}))
}

/// `POST /v1/chat/completions`, in one piece or as server-sent events.
pub(crate) async fn chat(body: BoxBody) -> Response<BoxBody> {
    let bytes = match read_whole(body, MAX_CANARY_BODY).await {
        Ok(bytes) => bytes,
        Err(Unread::TooLarge) => return too_large(MAX_CANARY_BODY),
        Err(Unread::Broken) => return bad("the request body did not arrive whole"),
    };
    let request: ChatRequest = match serde_json::from_slice(&bytes) {
        Ok(request) => request,
        Err(error) if error.is_data() => {
            return bad(&format!(
                "the request body is not a chat completion request (column {})",
                error.column()
            ));
        }
        Err(error) => {
            return bad(&format!(
                "the request body is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ));
        }
    };
    if request.messages.is_empty() {
        return bad("'messages' is empty");
    }
    let turn = Turn {
        id: format!("chatcmpl-canary-{}", COUNTER.fetch_add(1, Ordering::Relaxed)),
        created: now(),
        // Four bytes a token: as good a guess as any for a thing without a tokeniser.
        prompt_tokens: bytes.len() / 4,
    };
    if request.stream.unwrap_or(false) {
        turn.stream(request.stream_options.is_some_and(|options| options.include_usage))
    } else {
        turn.whole()
    }
}

fn bad(message: &str) -> Response<BoxBody> {
    error_reply(StatusCode::BAD_REQUEST, "invalid_request", message)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

struct Turn {
    id: String,
    created: u64,
    prompt_tokens: usize,
}

impl Turn {
    fn usage(&self) -> Value {
        let answer = CANARY_ANSWER.len() / 4;
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answer,
            "total_tokens": self.prompt_tokens + answer,
        })
    }

    fn whole(&self) -> Response<BoxBody> {
        let message = json!({"role": "assistant", "content": CANARY_ANSWER, "refusal": null});
        json_reply(
            StatusCode::OK,
            &json!({
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": CANARY_MODEL,
                "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
                "usage": self.usage(),
            }),
        )
    }

    fn stream(&self, include_usage: bool) -> Response<BoxBody> {
        let mut events = String::new();
        let choice =
            |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        self.event(
            &mut events,
            choice(json!({"role": "assistant", "content": ""}), Value::Null),
            include_usage,
            None,
        );
        for piece in CANARY_ANSWER.split_inclusive(". ") {
            self.event(&mut events, choice(json!({"content": piece}), Value::Null), include_usage, None);
        }
        self.event(&mut events, choice(json!({}), json!("stop")), include_usage, None);
        if include_usage {
            self.event(&mut events, json!([]), true, Some(self.usage()));
        }
        events.push_str("data: [DONE]\n\n");
        let mut reply = Response::new(full(Bytes::from(events)));
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
        reply
    }

    fn event(&self, events: &mut String, choices: Value, with_usage: bool, usage: Option<Value>) {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": CANARY_MODEL,
            "choices": choices,
        });
        if with_usage {
            // Null in every chunk but the last one, as the API has it.
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        events.push_str(&format!("data: {chunk}\n\n"));
    }
}
