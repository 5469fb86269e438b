//! Anthropic's Messages API: what passes, what is put in, and what a check of it says.

mod common;

use std::sync::{Arc, Mutex};

use ::http::{Request, Response};
use clawkeep_inference::{BoxBody, Provider, Route, RouteProblem, Secret, Service};
use common::{KEY, full, http, reply, whole};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

const ANSWER: &str = r#"{"type":"message","role":"assistant","content":[],"stop_reason":"max_tokens"}"#;
const LIST: &str = r#"{"data":[{"type":"model","id":"c1"},{"type":"model","id":"c2"}],"has_more":false}"#;

fn service(url: &str, model: &str) -> Service {
    let route = Route::new(Provider::AnthropicCompatible, Some(url), model, true).unwrap();
    Service::new(route, Some(Secret::new(KEY.to_owned()))).unwrap()
}

fn post(path: &str) -> ::http::request::Builder {
    Request::post(path).header("content-type", "application/json").header("x-api-key", "provided-inside")
}

#[tokio::test]
async fn the_key_and_the_version_are_put_in_and_the_agents_own_version_stays() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let provider = http(move |request: Request<Incoming>| {
        let record = record.clone();
        async move {
            record.lock().unwrap().push(request.into_parts().0);
            reply(200, ANSWER)
        }
    })
    .await;
    let service = service(&provider.url, "c1");
    let plain = post("/v1/messages").body(full("{}")).unwrap();
    assert_eq!(whole(service.respond(plain).await).await, (200, ANSWER.to_owned()));
    let versioned = post("/v1/messages/count_tokens?beta=true")
        .header("anthropic-version", "2024-01-01")
        .header("anthropic-beta", "b1,b2")
        .header("authorization", "Bearer inside")
        .body(full("{}"))
        .unwrap();
    assert_eq!(service.respond(versioned).await.status(), 200);

    let seen = seen.lock().unwrap();
    let header = |index: usize, name: &str| seen[index].headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(seen[0].uri, "/base/v1/messages");
    assert_eq!((header(0, "x-api-key"), header(0, "anthropic-version")), (Some(KEY), Some("2023-06-01")));
    assert_eq!(seen[1].uri, "/base/v1/messages/count_tokens?beta=true");
    assert_eq!((header(1, "x-api-key"), header(1, "anthropic-version")), (Some(KEY), Some("2024-01-01")));
    assert_eq!((header(1, "anthropic-beta"), header(1, "authorization")), (Some("b1,b2"), None));
}

#[tokio::test]
async fn an_error_of_the_route_is_one_for_anthropics_clients_too() {
    let service = service("http://no-such-host.invalid", "c1");
    let (status, body) = whole(service.respond(post("/v1/messages").body(full("{}")).unwrap()).await).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["type"], &body["error"]["type"]), (502, &json!("error"), &json!("api_error")));
    assert_eq!(body["error"]["code"], "upstream_dns");
}

async fn provider(request: Request<Incoming>) -> Response<BoxBody> {
    if request.headers()["x-api-key"] != KEY {
        return reply(401, r#"{"type":"error","error":{"type":"authentication_error","message":"bad key"}}"#);
    }
    if request.uri().path() == "/base/v1/models" {
        return reply(200, LIST);
    }
    assert_eq!(request.uri().path(), "/base/v1/messages");
    let body: Value =
        serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
    match (body["model"].as_str(), body["max_tokens"].as_u64()) {
        (Some("c1"), Some(1)) => reply(200, ANSWER),
        _ => reply(404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: cx"}}"#),
    }
}

#[tokio::test]
async fn a_check_proves_a_turn_or_says_what_is_wrong() {
    let there = http(provider).await;
    let report = service(&there.url, "c1").check().await.unwrap();
    assert_eq!((report.provider, report.listed), ("anthropicCompatible", Some(2)));

    let problem = service(&there.url, "cx").check().await.unwrap_err();
    let RouteProblem::ModelAbsent { model, available, .. } = &problem else { panic!("{problem}") };
    assert_eq!((model.as_str(), available.as_slice()), ("cx", ["c1".to_owned(), "c2".to_owned()].as_slice()));

    let route = Route::new(Provider::AnthropicCompatible, Some(&there.url), "c1", true).unwrap();
    let service = Service::new(route, Some(Secret::new("wrong".to_owned()))).unwrap();
    let problem = service.check().await.unwrap_err();
    assert!(matches!(problem, RouteProblem::Unauthorized { status: 401, key_sent: true, .. }), "{problem}");

    let other = http(|_| async { reply(200, r#"{"choices":[{}]}"#) }).await;
    let problem = self::service(&other.url, "c1").check().await.unwrap_err();
    assert!(problem.to_string().ends_with("its answer to a message has no 'content'"), "{problem}");
}
