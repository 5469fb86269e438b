use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{http, wait_until};

const LONG: Duration = Duration::from_secs(30);

fn chat(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "hi"}]})
}

fn message(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
}

fn ask(provider: &FakeProvider, path: &str, body: &Value) -> std::io::Result<http::Answer> {
    let stream = TcpStream::connect(provider.address()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let headers = [("anthropic-version", "2023-06-01"), ("content-type", "application/json")];
    http::request(stream, "POST", path, &headers, body.to_string().as_bytes())
}

/// The data of each event.
fn events(answer: &http::Answer) -> Vec<Value> {
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
}

#[test]
fn chat_completions_come_whole_or_in_chunks() {
    let provider = FakeProvider::openai(&["m"]);
    let whole = ask(&provider, "/v1/chat/completions", &chat(false)).unwrap().json().unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "pong");
    provider
        .script([Answer::text("one two").costing(3, 2), Answer::tool("exec", json!({"command": "ls -l"}))]);

    let chunks = events(&ask(&provider, "/v1/chat/completions", &chat(true)).unwrap());
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    let finish: Vec<_> = chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!((text.as_str(), finish.as_slice()), ("one two", &["stop"][..]));
    let usage = &chunks[chunks.len() - 2];
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(5)));
    assert_eq!(chunks.last().unwrap(), "[DONE]");

    let chunks = events(&ask(&provider, "/v1/chat/completions", &chat(true)).unwrap());
    let calls = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].get(0));
    let calls: Vec<_> = calls.collect();
    assert!(
        calls.len() > 3
            && calls[0]["function"]["name"] == "exec"
            && calls[1]["function"].get("name").is_none()
    );
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"command": "ls -l"}));
    assert!(chunks.iter().any(|c| c["choices"][0]["finish_reason"] == "tool_calls"));
    assert_eq!(provider.turns().len(), 3);
    assert_eq!(provider.turns()[0].json(), chat(false));
}

#[test]
fn responses_and_embeddings_have_their_own_shapes() {
    let provider = FakeProvider::openai(&["m"]);
    let body = json!({"model": "m", "input": "hi", "stream": true});
    let all = events(&ask(&provider, "/v1/responses", &body).unwrap());
    assert_eq!((&all[0]["type"], &all[2]["delta"]), (&json!("response.created"), &json!("pong")));
    let last = all.last().unwrap();
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "pong");
    assert_eq!(
        (&last["type"], &last["sequence_number"]),
        (&json!("response.completed"), &json!(all.len() - 1))
    );
    let body = json!({"model": "m", "input": ["a", "b"]});
    let list = ask(&provider, "/v1/embeddings", &body).unwrap().json().unwrap();
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][1]["index"]), (2, &json!(1)));
}

#[test]
fn messages_have_the_events_of_their_api() {
    let provider = FakeProvider::anthropic(&["m"]);
    provider
        .script([Answer::text("one two").costing(3, 2), Answer::tool("exec", json!({"command": "ls -l"}))]);
    let all = events(&ask(&provider, "/v1/messages", &message(true)).unwrap());
    let kinds: Vec<_> = all.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let delta = "content_block_delta";
    let wanted = [
        "message_start",
        "content_block_start",
        "ping",
        delta,
        delta,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(kinds, wanted);
    assert_eq!(
        (&all[0]["message"]["usage"]["input_tokens"], &all[6]["usage"]["output_tokens"]),
        (&json!(3), &json!(2))
    );

    let answer = ask(&provider, "/v1/messages", &message(true)).unwrap();
    assert!(answer.text().starts_with("event: message_start\ndata: {"));
    let all = events(&answer);
    let pieces: Vec<_> = all.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert!(pieces.len() > 1);
    assert_eq!(serde_json::from_str::<Value>(&pieces.concat()).unwrap(), json!({"command": "ls -l"}));
    assert_eq!(
        (&all[1]["content_block"]["input"], &all[all.len() - 2]["delta"]["stop_reason"]),
        (&json!({}), &json!("tool_use"))
    );

    let whole = ask(&provider, "/v1/messages", &message(false)).unwrap().json().unwrap();
    assert_eq!((&whole["content"][0]["text"], &whole["stop_reason"]), (&json!("pong"), &json!("end_turn")));
    let tokens = ask(&provider, "/v1/messages/count_tokens", &message(false)).unwrap().json().unwrap();
    assert!(tokens["input_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn what_is_refused_is_refused_in_the_words_of_the_api() {
    for (provider, path, body) in [
        (FakeProvider::openai(&["m"]), "/v1/chat/completions", chat(false)),
        (FakeProvider::anthropic(&["m"]), "/v1/messages", message(false)),
    ] {
        let status = |body: &Value, path| {
            let answer = ask(&provider, path, body).unwrap();
            let error = answer.json().unwrap()["error"].take();
            assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
            (answer.status, answer.header("retry-after").map(str::to_owned))
        };
        assert_eq!(status(&json!({"model": "m"}), path), (400, None));
        assert_eq!(status(&json!({"model": "x", "max_tokens": 1, "messages": [1]}), path), (404, None));
        assert_eq!(status(&body, "/v1/files"), (404, None));
        provider.script([Answer::rate_limited(Some("7")), Answer::overloaded()]);
        assert_eq!(status(&body, path), (429, Some("7".into())));
        assert_eq!(status(&body, path), (529, None));
        provider.accept_keys(&["k"]);
        assert_eq!(status(&body, path), (401, None));
        let shown = [("x-api-key", "k"), ("authorization", "Bearer k")];
        let stream = TcpStream::connect(provider.address()).unwrap();
        let list = http::request(stream, "GET", "/base/v1/models?limit=9", &shown, b"").unwrap();
        assert_eq!((list.status, &list.json().unwrap()["data"][0]["id"]), (200, &json!("m")));
        assert_eq!(provider.asked().last().unwrap().key(), Some("k"));
    }
    // The other API's calls are not there.
    assert_eq!(ask(&FakeProvider::openai(&["m"]), "/v1/messages", &message(false)).unwrap().status, 404);
    assert_eq!(
        ask(&FakeProvider::anthropic(&["m"]), "/v1/chat/completions", &chat(false)).unwrap().status,
        404
    );
}

#[test]
fn a_stream_ends_as_the_script_says() {
    let provider = FakeProvider::anthropic(&["m"]);
    provider.script([
        Answer::text("a b c").ending(Ending::Error(4)),
        Answer::text("a b c").ending(Ending::Cut(4)),
        Answer::text("a b c").typed("text/html"),
        Answer::exact(200, "<html>").typed("text/html"),
    ]);
    let failed = ask(&provider, "/v1/messages", &message(true)).unwrap();
    assert_eq!(events(&failed).last().unwrap()["error"]["type"], "overloaded_error");
    let cut = ask(&provider, "/v1/messages", &message(true)).unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
    let ends: Vec<_> = provider.turns().iter().map(|asked| asked.end).collect();
    assert_eq!(ends, [Some(End::Broken), Some(End::Broken)]);
    for _ in 0..2 {
        let odd = ask(&provider, "/v1/messages", &message(true)).unwrap();
        assert_eq!((odd.status, odd.header("content-type")), (200, Some("text/html")));
    }
}

#[test]
fn an_answer_is_held_until_it_is_released_or_nobody_waits_for_it() {
    let provider = FakeProvider::openai(&["m"]);
    let held = || provider.script([Answer::text("a b c").held_after(2)]);
    let end = |number: usize| provider.turns().get(number).and_then(|asked| asked.end);
    held();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&provider, "/v1/chat/completions", &chat(true)).unwrap());
        let sent = || provider.turns().first().map(|asked| asked.sent);
        wait_until(LONG, "the first events", || (sent() == Some(2)).then_some(()));
        assert_eq!(end(0), None);
        wait_until(LONG, "the rest", || {
            provider.release();
            asking.is_finished().then_some(())
        });
        assert!(asking.join().unwrap().text().ends_with("[DONE]\n\n"));
    });
    for answer in [
        Answer::text("a b c").held_after(2),
        Answer::text("a b c").ending(Ending::Stall(2)),
        Answer::silence(),
    ] {
        provider.forget();
        provider.script([answer]);
        let mut stream = TcpStream::connect(provider.address()).unwrap();
        let body = chat(true).to_string();
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        wait_until(LONG, "the request", || (provider.turns().len() == 1).then_some(()));
        drop(stream);
        wait_until(LONG, "it to be seen that nobody waits", || {
            (end(0) == Some(End::Abandoned)).then_some(())
        });
    }
}

#[test]
fn it_goes_down_and_comes_back_at_the_same_place() {
    let provider = FakeProvider::openai(&["m"]);
    provider.script([Answer::text("a b").ending(Ending::Stall(1))]);
    let mut open = TcpStream::connect(provider.address()).unwrap();
    provider.goes_down();
    assert_eq!(
        TcpStream::connect(provider.address()).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)), "every connection is closed");
    provider.comes_back();
    assert_eq!(provider.url(), format!("http://{}/v1", provider.address()));
    provider.script([]);
    let stalled = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&provider, "/v1/chat/completions", &chat(true)));
        wait_until(LONG, "the request", || (provider.turns().len() == 1).then_some(()));
        provider.goes_down();
        asking.join().unwrap()
    });
    assert!(stalled.is_err());
    provider.comes_back();
    assert_eq!(ask(&provider, "/v1/chat/completions", &chat(false)).unwrap().status, 200);
}
