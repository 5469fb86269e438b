//! OpenAI's API: <https://platform.openai.com/docs/api-reference>.

use serde_json::{Value, json};

use super::Answer;
use super::script::{Content, Refusal};
use super::serve::{Reply, pieces, shreds, usage};

/// Some moment; nothing here depends on which.
const CREATED: u64 = 1_767_225_600;

pub(super) fn models(models: &[String]) -> Value {
    let data =
        models.iter().map(|id| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "fake"}));
    json!({"object": "list", "data": data.collect::<Vec<_>>()})
}

/// What is wrong with a request.
pub(super) fn flaw(call: &str, body: &Value) -> Option<&'static str> {
    let filled = |name: &str| body[name].as_array().is_some_and(|all| !all.is_empty());
    match call {
        _ if !body.is_object() => Some("the body is no JSON object"),
        "/chat/completions" => (!filled("messages")).then_some("'messages' is missing or empty"),
        _ => (body["input"].is_null()).then_some("'input' is missing"),
    }
}

pub(super) fn error(refusal: &Refusal) -> Value {
    let code = match refusal.status {
        401 => json!("invalid_api_key"),
        404 => json!("model_not_found"),
        429 => json!("rate_limit_exceeded"),
        _ => Value::Null,
    };
    let kind = if refusal.status == 401 { "invalid_request_error" } else { &refusal.kind };
    json!({"error": {"message": refusal.message, "type": kind, "param": null, "code": code}})
}

fn stream_error() -> String {
    let error = json!({"error": {"message": "The server had an error", "type": "server_error", "param": null, "code": null}});
    format!("data: {error}\n\n")
}

/// Chat completions, whole or as chunks.
pub(super) fn chat(body: &Value, answer: &Answer, number: usize) -> Reply {
    let (input, output) = usage(body, answer);
    let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
    let id = format!("chatcmpl-{number}");
    let call = |arguments: &str, name: &str| json!({"id": format!("call_{number}"), "type": "function", "function": {"name": name, "arguments": arguments}});
    let (text, finish) = match &answer.content {
        Content::Tool { .. } => (Value::Null, "tool_calls"),
        Content::Text(text) => (json!(text), "stop"),
        _ => (json!(""), "stop"),
    };
    if !is_stream(body) {
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if let Content::Tool { name, arguments } = &answer.content {
            message["tool_calls"] = json!([call(&arguments.to_string(), name)]);
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish});
        return Reply::json(&json!({
            "id": id, "object": "chat.completion", "created": CREATED, "model": body["model"],
            "choices": [choice], "usage": usage,
        }));
    }
    let counted = body["stream_options"]["include_usage"] == true;
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": id, "object": "chat.completion.chunk", "created": CREATED, "model": body["model"],
            "choices": choices,
        });
        if counted {
            // Null in all but the last.
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let mut events = Vec::new();
    match &answer.content {
        Content::Tool { name, arguments } => {
            let mut first = call("", name);
            first["index"] = json!(0);
            events.push(delta(
                json!({"role": "assistant", "content": null, "tool_calls": [first]}),
                Value::Null,
            ));
            events.extend(shreds(arguments).into_iter().map(|piece| {
                delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}), Value::Null)
            }));
        }
        Content::Text(text) => {
            events.push(delta(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null));
            events
                .extend(pieces(text).into_iter().map(|piece| delta(json!({"content": piece}), Value::Null)));
        }
        _ => {}
    }
    events.push(delta(json!({}), json!(finish)));
    if counted {
        events.push(chunk(json!([]), usage));
    }
    events.push("data: [DONE]\n\n".to_owned());
    Reply::Events(events, stream_error())
}

/// Responses, whole or as events.
pub(super) fn response(body: &Value, answer: &Answer, number: usize) -> Reply {
    let (input, output) = usage(body, answer);
    let usage = json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    let item = match &answer.content {
        Content::Tool { name, arguments } => json!({
            "type": "function_call", "id": format!("fc_{number}"), "call_id": format!("call_{number}"),
            "name": name, "arguments": arguments.to_string(), "status": "completed",
        }),
        Content::Text(text) => json!({
            "type": "message", "id": format!("msg_{number}"), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        _ => Value::Null,
    };
    let whole = |status: &str, items: Value, usage: Value| {
        json!({
            "id": format!("resp_{number}"), "object": "response", "created_at": CREATED, "status": status,
            "model": body["model"], "output": items, "error": null, "usage": usage,
        })
    };
    let done = whole("completed", json!([item]), usage);
    if !is_stream(body) {
        return Reply::json(&done);
    }
    let mut sequence = 0;
    let mut event = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(sequence);
        sequence += 1;
        format!("event: {kind}\ndata: {data}\n\n")
    };
    let mut events = vec![
        event("response.created", json!({"response": whole("in_progress", json!([]), Value::Null)})),
        event("response.output_item.added", json!({"output_index": 0, "item": item})),
    ];
    let at = json!({"item_id": item["id"], "output_index": 0, "content_index": 0});
    let (kind, parts) = match &answer.content {
        Content::Tool { arguments, .. } => ("response.function_call_arguments.delta", shreds(arguments)),
        Content::Text(text) => {
            ("response.output_text.delta", pieces(text).into_iter().map(str::to_owned).collect())
        }
        _ => ("", Vec::new()),
    };
    for part in parts {
        let mut data = at.clone();
        data["delta"] = json!(part);
        events.push(event(kind, data));
    }
    events.push(event("response.output_item.done", json!({"output_index": 0, "item": item})));
    events.push(event("response.completed", json!({"response": done})));
    let error =
        json!({"type": "error", "code": "server_error", "message": "The server had an error", "param": null});
    Reply::Events(events, format!("event: error\ndata: {error}\n\n"))
}

/// Three dimensions for each text.
pub(super) fn embeddings(body: &Value) -> Value {
    let texts = body["input"].as_array().map_or(1, Vec::len);
    let data =
        (0..texts).map(|index| json!({"object": "embedding", "index": index, "embedding": [0.1, 0.2, 0.3]}));
    json!({
        "object": "list", "data": data.collect::<Vec<_>>(), "model": body["model"],
        "usage": {"prompt_tokens": texts, "total_tokens": texts},
    })
}

fn is_stream(body: &Value) -> bool {
    body["stream"] == true
}
