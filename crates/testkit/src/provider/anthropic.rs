//! Anthropic's Messages API: <https://docs.anthropic.com/en/api/messages>, and streaming beside it.

use serde_json::{Value, json};

use super::script::{Content, Refusal};
use super::serve::{Reply, pieces, shreds, usage};
use super::{Answer, Asked};

pub(super) fn models(models: &[String]) -> Value {
    let data = models.iter().map(
        |id| json!({"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"}),
    );
    json!({
        "data": data.collect::<Vec<_>>(), "has_more": false, "first_id": models.first(), "last_id": models.last(),
    })
}

/// What is wrong with a request.
pub(super) fn flaw(call: &str, asked: &Asked, body: &Value) -> Option<&'static str> {
    let filled = |name: &str| body[name].as_array().is_some_and(|all| !all.is_empty());
    match () {
        () if asked.header("anthropic-version").is_none() => Some("anthropic-version: header is required"),
        () if !body.is_object() => Some("the body is no JSON object"),
        () if !filled("messages") => Some("messages: Field required"),
        () if call == "/messages" && !body["max_tokens"].is_u64() => Some("max_tokens: Field required"),
        () => None,
    }
}

pub(super) fn error(refusal: &Refusal) -> Value {
    json!({"type": "error", "error": {"type": refusal.kind, "message": refusal.message}})
}

pub(super) fn count(body: &Value) -> Value {
    json!({"input_tokens": body.to_string().len().div_ceil(4)})
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// A message, whole or as events.
pub(super) fn turn(body: &Value, answer: &Answer, number: usize) -> Reply {
    let (input, output) = usage(body, answer);
    let (block, empty, stop, deltas) = match &answer.content {
        Content::Tool { name, arguments } => {
            let block = |input: Value| json!({"type": "tool_use", "id": format!("toolu_{number}"), "name": name, "input": input});
            let delta = |piece: String| json!({"type": "input_json_delta", "partial_json": piece});
            let deltas = shreds(arguments).into_iter().map(delta).collect::<Vec<_>>();
            (block(arguments.clone()), block(json!({})), "tool_use", deltas)
        }
        Content::Text(text) => {
            let deltas = pieces(text).into_iter().map(|piece| json!({"type": "text_delta", "text": piece}));
            let deltas = deltas.collect::<Vec<_>>();
            (json!({"type": "text", "text": text}), json!({"type": "text", "text": ""}), "end_turn", deltas)
        }
        _ => (Value::Null, Value::Null, "end_turn", Vec::new()),
    };
    let message = |content: Value, stop: Value, output: u64| {
        json!({
            "id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": body["model"],
            "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": {
                "input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": output,
            },
        })
    };
    if body["stream"] != true {
        return Reply::json(&message(json!([block]), json!(stop), output));
    }
    let mut events = vec![
        event(&json!({"type": "message_start", "message": message(json!([]), Value::Null, 1)})),
        event(&json!({"type": "content_block_start", "index": 0, "content_block": empty})),
        event(&json!({"type": "ping"})),
    ];
    for delta in deltas {
        events.push(event(&json!({"type": "content_block_delta", "index": 0, "delta": delta})));
    }
    events.push(event(&json!({"type": "content_block_stop", "index": 0})));
    events.push(event(&json!({
        "type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
        "usage": {"output_tokens": output},
    })));
    events.push(event(&json!({"type": "message_stop"})));
    let error = error(&Refusal::new(529, "overloaded_error", "Overloaded"));
    Reply::Events(events, event(&error))
}
