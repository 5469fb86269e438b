//! Providers that stream, stall, break and babble: what the agent gets of it, byte for byte, and what is counted.

mod common;

use std::time::Duration;

use ::http::Response;
use bytes::Bytes;
use clawkeep_inference::{BoxBody, LiveService, Provider, Route, Seen, Service, Timeouts};
use common::{DEADLINE, Provided, chat, full, get, http, raw, reply, service, service_within};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const CHAT: &[&str] = &[
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"p\u{f6}ng\"}}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
];

const MESSAGE: &[&str] = &[
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"pong\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":4}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
];

/// What a provider does after its events.
#[derive(Clone, Copy)]
enum Then {
    Ends,
    Stalls,
    Cuts,
}

/// A provider that streams these events, each in a chunk and a segment of its own.
async fn streaming(content_type: &'static str, events: &'static [&'static str], then: Then) -> Provided {
    raw(move |mut stream| async move {
        if !matches!(stream.read(&mut [0_u8; 4096]).await, Ok(1..)) {
            return;
        }
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for event in events {
            stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        match then {
            Then::Ends => stream.write_all(b"0\r\n\r\n").await.unwrap(),
            // Until the other side has had enough.
            Then::Stalls => drop(stream.read(&mut [0_u8; 1]).await),
            Then::Cuts => {}
        }
    })
    .await
}

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

#[tokio::test]
async fn streams_of_both_apis_pass_byte_for_byte_and_their_tokens_are_counted() {
    for (events, tokens) in [(CHAT, (12, 3)), (MESSAGE, (9, 4))] {
        let provider = streaming("text/event-stream", events, Then::Ends).await;
        let service = service(&provider.url);
        let (text, error) = drain(service.respond(chat(r#"{"model":"a/b","stream":true}"#)).await).await;
        assert_eq!((text, error), (events.concat(), None));
        let seen = service.seen();
        let counts = &seen.models["a/b"];
        assert_eq!((counts.turns, (counts.tokens_in, counts.tokens_out)), (1, tokens));
        assert!(counts.first_token_ms.is_some() && counts.between_tokens_ms > Some(0.0), "{counts:?}");
        assert_eq!((seen.total.turns, seen.running, errors(&seen)), (1, 0, vec![]));
    }
}

#[tokio::test]
async fn a_stream_that_stalls_breaks_or_tells_of_an_error_is_counted_as_that() {
    const ERROR: &[&str] = &[
        "data: {}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
    ];
    for (events, then, cause, told) in [
        (&CHAT[..2], Then::Stalls, "stalled", Some("the provider stopped sending")),
        (&CHAT[..2], Then::Cuts, "cut", None),
        (ERROR, Then::Ends, "error_in_stream", None),
    ] {
        let provider = streaming("text/event-stream", events, then).await;
        let timeouts = Timeouts { idle: Duration::from_millis(200), ..Timeouts::default() };
        let service = service_within(&provider.url, timeouts);
        let (text, error) = drain(service.respond(chat("{}")).await).await;
        // What came before passes, and an end that is none is no end.
        assert_eq!(text, events.concat());
        assert_eq!(error.is_some(), !matches!(then, Then::Ends), "{cause}: {error:?}");
        if told.is_some() {
            assert_eq!(error.as_deref(), told);
        }
        let seen = service.seen();
        assert_eq!((seen.total.turns, errors(&seen)), (0, vec![(cause, 1)]));
    }
}

#[tokio::test]
async fn a_wrong_content_type_and_a_huge_event_pass_whole_and_uncounted() {
    let mislabelled = streaming("text/html", CHAT, Then::Ends).await;
    let service = service(&mislabelled.url);
    assert_eq!(drain(service.respond(chat("{}")).await).await, (CHAT.concat(), None));
    let counts = service.seen().total;
    assert_eq!((counts.turns, counts.tokens_in, counts.first_token_ms), (1, 0, None));

    let huge = format!("data: {}\n\n{}", "x".repeat(4 << 20), CHAT[2]);
    let sent = Bytes::from(huge.clone());
    let provider = http(move |_| {
        let mut answer = Response::new(full(sent.clone()));
        answer.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        async move { answer }
    })
    .await;
    let service = common::service(&provider.url);
    let (text, error) = drain(service.respond(chat("{}")).await).await;
    assert!(text == huge && error.is_none());
    assert_eq!(service.seen().total.tokens_in, 12);
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
