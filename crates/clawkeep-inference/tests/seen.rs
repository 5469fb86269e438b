//! Providers that stream, stall, break and babble: what the agent gets of it, byte for byte, and what is counted.

mod common;

use std::time::Duration;

use ::http::{Request, Response};
use clawkeep_inference::{BoxBody, LiveService, Provider, Route, Seen, Service, Timeouts};
use common::{DEADLINE, chat, full, get, http, reply, service};
use http_body_util::BodyExt as _;
use testkit::FakeProvider;
use testkit::provider::{Answer, Ending};
use tokio::time::timeout;

/// Everything that came of the body, and the error that ended it, if one did.
async fn drain(response: Response<BoxBody>) -> (String, Option<String>) {
    let (mut body, mut text) = (response.into_body(), Vec::new());
    while let Some(frame) = timeout(DEADLINE, body.frame()).await.expect("a frame or an end in time") {
        match frame {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) => return (String::from_utf8(text).unwrap(), Some(error.to_string())),
        }
    }
    (String::from_utf8(text).unwrap(), None)
}

fn errors(seen: &Seen) -> Vec<(&str, u64)> {
    seen.total.errors.iter().map(|(cause, count)| (cause.as_str(), *count)).collect()
}

const CHAT: &str = r#"{"model":"m1","stream":true,"stream_options":{"include_usage":true},"messages":[{}]}"#;

const MESSAGE: &str = r#"{"model":"m1","stream":true,"max_tokens":9,"messages":[{}]}"#;

/// A provider of each API with the model m1, a service for it, and a request for a stream.
fn both() -> [(FakeProvider, Service, Request<BoxBody>); 2] {
    let message = Request::post("/v1/messages").body(full(MESSAGE)).unwrap();
    let asked = [
        (FakeProvider::openai(&["m1"]), Provider::Custom, chat(CHAT)),
        (FakeProvider::anthropic(&["m1"]), Provider::AnthropicCompatible, message),
    ];
    asked.map(|(provider, kind, request)| {
        let route = Route::new(kind, Some(&provider.url()), "m1", false).unwrap();
        let timeouts = Timeouts { idle: Duration::from_millis(200), ..Timeouts::default() };
        let service = Service::with_keys(route, Vec::new(), timeouts).unwrap();
        (provider, service, request)
    })
}

fn answered(provider: &FakeProvider) -> String {
    String::from_utf8(provider.turns().pop().unwrap().answer).unwrap()
}

#[tokio::test]
async fn streams_of_both_apis_pass_byte_for_byte_and_their_tokens_are_counted() {
    for (provider, service, request) in both() {
        let pace = Duration::from_millis(2);
        provider.script([Answer::text("p\u{f6}ng and more").costing(12, 3).paced(pace)]);
        assert_eq!(drain(service.respond(request).await).await, (answered(&provider), None));
        let seen = service.seen();
        let counts = &seen.models["m1"];
        assert_eq!((counts.turns, (counts.tokens_in, counts.tokens_out)), (1, (12, 3)));
        assert!(counts.first_token_ms.is_some() && counts.between_tokens_ms > Some(0.0), "{counts:?}");
        assert_eq!((seen.total.turns, seen.running, errors(&seen)), (1, 0, vec![]));
    }
}

#[tokio::test]
async fn a_stream_that_stalls_breaks_or_tells_of_an_error_is_counted_as_that() {
    for (ending, cause) in
        [(Ending::Stall(2), "stalled"), (Ending::Cut(2), "cut"), (Ending::Error(2), "error_in_stream")]
    {
        for (provider, service, request) in both() {
            provider.script([Answer::text("never heard to its end").ending(ending)]);
            let (text, error) = drain(service.respond(request).await).await;
            // What came before passes, and an end that is none is no end.
            assert!(!text.is_empty() && text == answered(&provider), "{text}");
            match ending {
                Ending::Stall(_) => assert_eq!(error.as_deref(), Some("the provider stopped sending")),
                Ending::Cut(_) => assert!(error.is_some()),
                _ => assert_eq!(error, None),
            }
            let seen = service.seen();
            assert_eq!((seen.total.turns, seen.running, errors(&seen)), (0, 0, vec![(cause, 1)]));
        }
    }
}

#[tokio::test]
async fn a_wrong_content_type_and_a_huge_event_pass_whole_and_uncounted() {
    for (provider, service, request) in both() {
        provider.script([Answer::text("pong").typed("text/html")]);
        assert_eq!(drain(service.respond(request).await).await, (answered(&provider), None));
        let counts = service.seen().total;
        assert_eq!((counts.turns, counts.tokens_in, counts.first_token_ms), (1, 0, None));
    }
    for (provider, service, request) in both() {
        let huge = "x".repeat(4 << 20);
        provider.script([Answer::text(&huge).costing(12, 3)]);
        let (text, error) = drain(service.respond(request).await).await;
        assert!(text.contains(&huge) && error.is_none());
        assert_eq!(service.seen().total.tokens_in, 12);
    }
}

#[tokio::test]
async fn statuses_are_counted_by_cause_and_what_costs_no_tokens_is_no_turn() {
    for (status, cause) in
        [(401, "unauthorized"), (404, "status_404"), (429, "rate_limited"), (500, "status_500")]
    {
        let provider = http(move |_| async move { reply(status, "") }).await;
        let service = service(&provider.url);
        assert_eq!(service.respond(chat("{}")).await.status(), status);
        assert_eq!((service.seen().total.turns, errors(&service.seen())), (0, vec![(cause, 1)]));
    }
    let provider = http(|_| async { reply(200, "{}") }).await;
    let service = service(&provider.url);
    assert_eq!(drain(service.respond(get("/v1/models")).await).await.0, "{}");
    assert_eq!(service.seen().total.turns, 0);
}

#[tokio::test]
async fn another_route_goes_on_counting() {
    let provider = http(|_| async { reply(200, "{}") }).await;
    let live = LiveService::new(service(&provider.url));
    drain(live.current().respond(chat("{}")).await).await;
    let route = Route::new(Provider::Custom, Some(&provider.url), "m2", false).unwrap();
    live.replace(Service::new(route, None).unwrap());
    drain(live.current().respond(chat("{}")).await).await;
    let seen = live.current().seen();
    assert_eq!(seen.models.keys().collect::<Vec<_>>(), ["m1", "m2"]);
    assert_eq!((seen.total.turns, seen.routes[0].model.as_str()), (2, "m2"));
}
