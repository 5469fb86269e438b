//! The built-in canary is an OpenAI-compatible provider.

mod common;

use clawkeep_inference::{CANARY_ANSWER, LiveService, MAX_CANARY_BODY, Provider, Route, Service};
use common::{chat, full, get, whole};
use serde_json::Value;

#[tokio::test]
async fn lists_itself_and_answers_in_one_piece() {
    let canary = Service::canary();
    let (status, body) = whole(canary.respond(get("/v1/models")).await).await;
    let models: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, models["data"][0]["id"].as_str()), (200, Some("canary")));

    let request = chat(r#"{"model":"any","messages":[{"role":"user","content":"hi"}]}"#);
    let (status, body) = whole(canary.respond(request).await).await;
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(answer["choices"][0]["message"]["content"], CANARY_ANSWER);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
}

#[tokio::test]
async fn streams_events_as_the_api_has_them() {
    for with_usage in [false, true] {
        let options = if with_usage { r#","stream_options":{"include_usage":true}"# } else { "" };
        let request =
            chat(&format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":true{options}}}"#));
        let response = Service::canary().respond(request).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (_, body) = whole(response).await;
        let events: Vec<_> =
            body.split_terminator("\n\n").map(|e| e.strip_prefix("data: ").unwrap()).collect();
        let (done, chunks) = events.split_last().unwrap();
        assert_eq!(*done, "[DONE]");
        let chunks: Vec<Value> = chunks.iter().map(|c| serde_json::from_str(c).unwrap()).collect();
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let text: String =
            chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, CANARY_ANSWER);
        let reasons: Vec<_> =
            chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str()).collect();
        assert_eq!(reasons, ["stop"]);
        assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"]));
        let last = chunks.last().unwrap();
        assert_eq!(last["usage"].is_object(), with_usage);
        assert_eq!(last["choices"].as_array().unwrap().is_empty(), with_usage);
    }
}

#[tokio::test]
async fn refuses_what_is_no_request_as_the_api_does() {
    let deep = format!("{{\"messages\":{}", "[".repeat(100_000));
    for bad in ["", "{", "[]", "{}", "{\"messages\":[]}", "{\"messages\":1}", "\u{0}", &deep] {
        let (status, body) = whole(Service::canary().respond(chat(bad)).await).await;
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 400, "{bad:.40}");
        assert_eq!(error["error"]["type"], "invalid_request_error", "{bad:.40}");
    }
    let large = http::Request::post("/v1/chat/completions")
        .body(full(vec![b' '; usize::try_from(MAX_CANARY_BODY).unwrap() + 1]))
        .unwrap();
    let (status, body) = whole(Service::canary().respond(large).await).await;
    assert_eq!(status, 413, "{body}");
}

#[tokio::test]
async fn everything_else_is_not_found() {
    let canary = Service::canary();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/models/canary",
        "/v1/../v1/models",
        "//v1/models",
        "/V1/models",
    ] {
        let (status, body) = whole(canary.respond(get(path)).await).await;
        assert_eq!(status, 404, "{path}");
        assert!(body.contains("\"not_found\""), "{path}: {body}");
    }
    let posted = http::Request::post("/v1/models").body(full("")).unwrap();
    assert_eq!(canary.respond(posted).await.status(), 404);
    let posted = http::Request::post("/v1/embeddings").body(full("{}")).unwrap();
    assert_eq!(canary.respond(posted).await.status(), 404);
}

#[tokio::test]
async fn passes_its_own_check_and_can_be_exchanged_for_a_provider() {
    let live = LiveService::new(Service::canary());
    let report = live.current().check().await.unwrap();
    assert_eq!((report.provider, report.model.as_str(), report.listed), ("canary", "canary", Some(1)));

    let before = live.current();
    let route = Route::new(Provider::Ollama, None, "hermes3:8b", false).unwrap();
    live.clone().replace(Service::new(route, None).unwrap());
    assert_eq!(live.current().route().provider, Provider::Ollama);
    assert_eq!(before.route().provider, Provider::Canary);
}
