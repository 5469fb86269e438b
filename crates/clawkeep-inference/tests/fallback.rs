//! Who is asked when the first route does not answer, and what is sent twice.

mod common;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use ::http::{Request, Response};
use clawkeep_inference::{
    BoxBody, BreakerState, Limits, LiveService, MAX_HELD_BODY, Provider, Route, Secret, Service, Timeouts,
};
use common::{DEADLINE, chat, eventually, full, get, http, raw, refused_url, reply, service, whole};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use testkit::FakeProvider;
use testkit::provider::Answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

/// A service over these base URLs with the models m1, m2, ...
fn chain(urls: &[&str]) -> Service {
    let timeouts = Timeouts { head: Duration::from_secs(2), ..Timeouts::default() };
    chain_within(urls, timeouts)
}

fn chain_within(urls: &[&str], timeouts: Timeouts) -> Service {
    let mut routes = urls.iter().enumerate().map(|(index, url)| {
        Route::new(Provider::Custom, Some(url), &format!("m{}", index + 1), false).unwrap()
    });
    let mut route = routes.next().unwrap();
    routes.for_each(|fallback| route.add_fallback(fallback).unwrap());
    Service::with_keys(route, Vec::new(), timeouts).unwrap()
}

/// Answers with the body that it got.
async fn echo(request: Request<Incoming>) -> Response<BoxBody> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(full(body))
}

fn breakers(service: &Service) -> Vec<BreakerState> {
    service.seen().routes.iter().map(|route| route.breaker).collect()
}

fn errors(service: &Service) -> Vec<(String, u64)> {
    service.seen().total.errors.into_iter().collect()
}

#[tokio::test]
async fn the_next_route_answers_with_its_own_model_in_place_of_the_first() {
    let second = http(echo).await;
    let limited = http(|_| async { reply(429, "slow down") }).await;
    let broken = http(|_| async { reply(503, "") }).await;
    let gone = raw(|stream| async move { drop(stream) }).await;
    let silent = http(|_| std::future::pending()).await;
    for (first, cause) in [
        (refused_url().await, "connect"),
        (limited.url.clone(), "rate_limited"),
        (broken.url.clone(), "status_503"),
        (gone.url.clone(), "protocol"),
        (silent.url.clone(), "timeout"),
    ] {
        let timeouts = Timeouts { head: Duration::from_millis(300), ..Timeouts::default() };
        let service = chain_within(&[&first, &second.url], timeouts);
        let body = r#"{ "model" : "m1", "n": 1e2}"#;
        let answer = whole(service.respond(chat(body)).await).await;
        assert_eq!(answer, (200, r#"{ "model" : "m2", "n": 1e2}"#.to_owned()), "{cause}");
        assert_eq!(errors(&service), [(cause.to_owned(), 1)]);
    }
}

#[tokio::test]
async fn what_the_first_route_answers_of_the_request_is_no_reason_to_ask_another() {
    let second = http(echo).await;
    for status in [200, 400, 401, 403, 404, 413, 422] {
        let first = http(move |_| async move { reply(status, "said") }).await;
        let service = chain(&[&first.url, &second.url]);
        assert_eq!(whole(service.respond(chat("{}")).await).await, (status, "said".to_owned()));
    }
    assert_eq!(second.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn when_nobody_answers_the_first_word_of_a_provider_is_passed_on() {
    let limited = http(|_| async { reply(429, "slow down") }).await;
    let broken = http(|_| async { reply(500, "no") }).await;
    let refused = refused_url().await;
    let service = chain(&[&refused, &limited.url, &broken.url]);
    assert_eq!(whole(service.respond(chat("{}")).await).await, (429, "slow down".to_owned()));
    let service = chain(&[&refused, &refused]);
    let (status, body) = whole(service.respond(chat("{}")).await).await;
    assert!(status == 502 && body.contains("upstream_connect"), "{status} {body}");
}

#[tokio::test]
async fn a_route_that_keeps_failing_is_asked_last_and_still_asked_when_nobody_else_is_well() {
    let well = Arc::new(Mutex::new(false));
    let now = well.clone();
    let first = http(move |_| {
        let status = if *now.lock().unwrap() { 200 } else { 500 };
        async move { reply(status, "first") }
    })
    .await;
    let second_status = Arc::new(Mutex::new(200));
    let now = second_status.clone();
    let second = http(move |_| {
        let status = *now.lock().unwrap();
        async move { reply(status, "second") }
    })
    .await;
    let service = chain(&[&first.url, &second.url]);
    for _ in 0..5 {
        assert_eq!(whole(service.respond(chat("{}")).await).await, (200, "second".to_owned()));
    }
    assert_eq!(breakers(&service), [BreakerState::Open, BreakerState::Closed]);
    // Three failures, then it was spared.
    assert_eq!(errors(&service), [("status_500".to_owned(), 3)]);
    *well.lock().unwrap() = true;
    assert_eq!(whole(service.respond(chat("{}")).await).await.1, "second");
    *second_status.lock().unwrap() = 502;
    assert_eq!(whole(service.respond(chat("{}")).await).await, (200, "first".to_owned()));
    assert_eq!(breakers(&service)[0], BreakerState::Closed);
}

fn waiting(status: u16, wait: &'static str) -> Response<BoxBody> {
    let mut answer = reply(status, "later");
    answer.headers_mut().insert("retry-after", wait.parse().unwrap());
    answer
}

#[tokio::test]
async fn a_provider_that_asks_for_a_wait_gets_it() {
    for status in [429, 503] {
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        let first = http(move |_| {
            *count.lock().unwrap() += 1;
            async move { waiting(status, "120") }
        })
        .await;
        let alone = chain(&[&first.url]);
        let response = alone.respond(chat("{}")).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (status, &"120".parse().unwrap())
        );
        let response = alone.respond(chat("{}")).await;
        let rest: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((100..=120).contains(&rest), "{rest}");
        let (status, body) = whole(response).await;
        assert!(status == 429 && body.contains("upstream_wait"), "{status} {body}");
        assert_eq!(*asked.lock().unwrap(), 1, "it was left alone");
        assert!(errors(&alone).contains(&("waiting".to_owned(), 1)));

        let second = http(|_| async { reply(200, "second") }).await;
        let service = chain(&[&first.url, &second.url]);
        for _ in 0..3 {
            assert_eq!(whole(service.respond(chat("{}")).await).await.1, "second");
        }
        assert_eq!(*asked.lock().unwrap(), 2, "and here too, after it had said so");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_held_goes_to_the_first_route_as_it_is() {
    let first = http(echo).await;
    let second = http(echo).await;
    let long = format!(r#"{{"model":"nemotron","x":"{}"}}"#, "x".repeat(MAX_HELD_BODY as usize));
    let service = chain(&[&first.url, &second.url]);
    let (status, body) = whole(service.respond(chat(&long)).await).await;
    assert!(status == 200 && body == long);
    // Nor is one held for which there is no room.
    let limits = Limits { held_kib: 1, ..Limits::default() };
    let crowded = chain(&[&refused_url().await, &second.url]).limited(limits);
    let body = format!(r#"{{"model":"m1","x":"{}"}}"#, "x".repeat(2000));
    assert_eq!(whole(crowded.respond(chat(&body)).await).await.0, 502);
    assert_eq!(second.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_model_of_the_table_is_given_its_parameter_on_the_way_out() {
    let provider = http(echo).await;
    let body = r#"{"model":"nvidia/nemotron-nano","messages":[]}"#;
    let (_, sent) = whole(service(&provider.url).respond(chat(body)).await).await;
    assert_eq!(sent, format!(r#"{{"chat_template_kwargs":{{"force_nonempty_content":true}},{}"#, &body[1..]));
}

/// Answers the first request of each connection, and at the second closes: after `part` of an answer.
async fn closing(part: &'static [u8], requests: Arc<Mutex<usize>>) -> common::Provided {
    raw(move |mut stream| {
        let requests = requests.clone();
        async move {
            let mut head = [0_u8; 4096];
            for answer in [&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], part] {
                if !matches!(stream.read(&mut head).await, Ok(1..)) {
                    return;
                }
                *requests.lock().unwrap() += 1;
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_is_sent_again_only_when_a_kept_connection_ends_without_a_byte_of_an_answer() {
    let requests = Arc::new(Mutex::new(0));
    let silent = closing(b"", requests.clone()).await;
    let service = service(&silent.url);
    for _ in 0..2 {
        assert_eq!(whole(service.respond(chat("{}")).await).await, (200, "ok".to_owned()));
    }
    assert_eq!(*requests.lock().unwrap(), 3, "one of the two was sent twice");
    assert_eq!(silent.connections.load(Ordering::SeqCst), 2);

    let requests = Arc::new(Mutex::new(0));
    let speaking = closing(b"HTTP/1.1 200", requests.clone()).await;
    let service = common::service(&speaking.url);
    assert_eq!(whole(service.respond(chat("{}")).await).await.0, 200);
    let (status, body) = whole(service.respond(chat("{}")).await).await;
    assert!(status == 502 && body.contains("upstream_protocol"), "{status} {body}");
    assert_eq!(*requests.lock().unwrap(), 2, "the second had begun to be answered");

    // On a connection of its own nothing is sent twice.
    let requests = Arc::new(Mutex::new(0));
    let count = requests.clone();
    let gone = raw(move |mut stream| {
        let count = count.clone();
        async move {
            if matches!(stream.read(&mut [0_u8; 4096]).await, Ok(1..)) {
                *count.lock().unwrap() += 1;
            }
        }
    })
    .await;
    assert_eq!(whole(common::service(&gone.url).respond(chat("{}")).await).await.0, 502);
    assert_eq!(*requests.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_sandbox_has_so_many_requests_at_once_and_so_many_that_wait() {
    let release = Arc::new(Notify::new());
    let released = release.clone();
    let provider = http(move |_| {
        let released = released.clone();
        async move {
            released.notified().await;
            reply(200, "ok")
        }
    })
    .await;
    let limits = Limits { concurrent: 2, queued: 1, patience: DEADLINE, ..Limits::default() };
    let route = Route::new(Provider::Custom, Some(&provider.url), "m1", false).unwrap();
    let service = Arc::new(Service::new(route.clone(), None).unwrap().limited(limits));
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { whole(service.respond(chat("{}")).await).await })
    };
    let running = [ask(), ask()];
    eventually(|| service.seen().running == 2).await;
    let (third, fourth) = (ask(), ask());
    // Whichever of the two comes second finds the queue full.
    let refused = tokio::select! {
        refused = third => refused,
        refused = fourth => refused,
    };
    let (status, body) = refused.unwrap();
    assert!(status == 429 && body.contains("too_many_requests"), "{status} {body}");
    assert_eq!(errors(&service), [("queue_full".to_owned(), 1)]);
    for _ in 0..3 {
        release.notify_one();
    }
    for running in running {
        assert_eq!(timeout(DEADLINE, running).await.unwrap().unwrap().0, 200);
    }
    eventually(|| service.seen().total.turns == 3 && service.seen().running == 0).await;

    let limits =
        Limits { concurrent: 1, queued: 1, patience: Duration::from_millis(100), ..Limits::default() };
    let impatient = Arc::new(Service::new(route, None).unwrap().limited(limits));
    let holder = impatient.clone();
    let holding = tokio::spawn(async move { holder.respond(chat("{}")).await });
    eventually(|| impatient.seen().running == 1).await;
    let response = impatient.respond(get("/v1/models")).await;
    assert_eq!(response.headers()["retry-after"], "5");
    let (status, body) = whole(response).await;
    assert!(status == 503 && body.contains("queue_timeout"), "{status} {body}");
    // Whoever goes away gives the place back.
    holding.abort();
    eventually(|| impatient.seen().running == 0).await;
}

#[tokio::test]
async fn a_request_that_waited_for_its_turn_shows_the_key_that_is_set_by_then() {
    let provider = FakeProvider::openai(&["m1"]);
    provider.script([Answer::text("a b c").held_after(1)]);
    let limits = Limits { concurrent: 1, queued: 1, patience: DEADLINE, ..Limits::default() };
    let route = Route::new(Provider::Custom, Some(&provider.url()), "m1", true).unwrap();
    let keyed = |key: &str| Service::new(route.clone(), Some(Secret::new(key.to_owned()))).unwrap();
    let live = LiveService::new(keyed("old-key-0001").limited(limits));
    let ask = || {
        let live = live.clone();
        let body = r#"{"model":"m1","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        async move { whole(live.respond(chat(body)).await).await.0 }
    };
    let first = tokio::spawn(ask());
    eventually(|| provider.turns().len() == 1).await;
    let mut second = Box::pin(ask());
    // It takes its place in the queue.
    assert!(std::future::poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
    live.replace(keyed("new-key-0002"));
    provider.release();
    assert_eq!(timeout(DEADLINE, first).await.unwrap().unwrap(), 200);
    assert_eq!(timeout(DEADLINE, second).await.unwrap(), 200);
    let turns = provider.turns();
    let keys: Vec<_> = turns.iter().map(|turn| turn.key().unwrap()).collect();
    assert_eq!(keys, ["old-key-0001", "new-key-0002"]);
}
