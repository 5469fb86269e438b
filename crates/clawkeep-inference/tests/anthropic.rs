//! Anthropic's Messages API: what passes, what is put in, and what a check of it says.

mod common;

use clawkeep_inference::{Provider, Route, RouteProblem, Secret, Service};
use common::{KEY, full, whole};
use http::Request;
use serde_json::{Value, json};
use testkit::FakeProvider;
use testkit::provider::Answer;

const BODY: &str = r#"{"model":"c1","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;

/// A provider with two models, which wants the key.
fn provider() -> FakeProvider {
    let provider = FakeProvider::anthropic(&["c1", "c2"]);
    provider.accept_keys(&[KEY]);
    provider
}

fn service(url: &str, model: &str) -> Service {
    keyed(url, model, KEY)
}

fn keyed(url: &str, model: &str, key: &str) -> Service {
    let route = Route::new(Provider::AnthropicCompatible, Some(url), model, true).unwrap();
    Service::new(route, Some(Secret::new(key.to_owned()))).unwrap()
}

fn post(path: &str) -> http::request::Builder {
    Request::post(path).header("content-type", "application/json").header("x-api-key", "provided-inside")
}

#[tokio::test]
async fn the_key_and_the_version_are_put_in_and_the_agents_own_version_stays() {
    let provider = provider();
    let service = service(&format!("http://{}/base", provider.address()), "c1");
    let (status, body) = whole(service.respond(post("/v1/messages").body(full(BODY)).unwrap()).await).await;
    assert!(status == 200 && body.contains("pong"), "{status} {body}");
    let versioned = post("/v1/messages/count_tokens?beta=true")
        .header("anthropic-version", "2024-01-01")
        .header("anthropic-beta", "b1,b2")
        .header("authorization", "Bearer inside")
        .body(full(BODY))
        .unwrap();
    assert_eq!(service.respond(versioned).await.status(), 200);

    let seen = provider.asked();
    let header = |index: usize, name: &str| seen[index].header(name);
    assert_eq!(seen[0].target, "/base/v1/messages");
    assert_eq!((header(0, "x-api-key"), header(0, "anthropic-version")), (Some(KEY), Some("2023-06-01")));
    assert_eq!(seen[1].target, "/base/v1/messages/count_tokens?beta=true");
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

#[tokio::test]
async fn an_overloaded_provider_is_passed_on_and_counted() {
    let provider = provider();
    provider.script([Answer::overloaded()]);
    let service = service(&provider.url(), "c1");
    let (status, body) = whole(service.respond(post("/v1/messages").body(full(BODY)).unwrap()).await).await;
    assert!(status == 529 && body.contains("overloaded_error"), "{status} {body}");
    assert_eq!(service.seen().total.errors.into_iter().collect::<Vec<_>>(), [("status_529".to_owned(), 1)]);
}

#[tokio::test]
async fn a_check_proves_a_turn_or_says_what_is_wrong() {
    let there = provider();
    let report = service(&there.url(), "c1").check().await.unwrap();
    assert_eq!((report.provider, report.listed), ("anthropicCompatible", Some(2)));

    let problem = service(&there.url(), "cx").check().await.unwrap_err();
    let RouteProblem::ModelAbsent { model, available, .. } = &problem else { panic!("{problem}") };
    assert_eq!((model.as_str(), available.as_slice()), ("cx", ["c1".to_owned(), "c2".to_owned()].as_slice()));

    let problem = keyed(&there.url(), "c1", "wrong").check().await.unwrap_err();
    assert!(matches!(problem, RouteProblem::Unauthorized { status: 401, key_sent: true, .. }), "{problem}");

    there.script([Answer::exact(200, r#"{"choices":[{}]}"#)]);
    let problem = service(&there.url(), "c1").check().await.unwrap_err();
    assert!(problem.to_string().ends_with("its answer to a message has no 'content'"), "{problem}");
}
