//! A policy that changes under open connections.

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncWriteExt as _;

use super::world::{World, matcher, read_exactly, read_head, read_to_end};
use crate::{Action, Reason};

fn endpoint(port: u16, rest: &str) -> String {
    format!("{{host: a.example, port: {port}{rest}}}")
}

#[tokio::test]
async fn tunnels_that_are_no_longer_allowed_are_closed_at_once() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[endpoint(port, "")])).await;
    let target = format!("a.example:{port}");
    let mut stream = world.tunnel(&target).await;
    stream.write_all(b"\0").await.unwrap();
    let (mut origin, _) = listener.accept().await.unwrap();
    read_exactly(&mut origin, 1).await;
    // The same in other words closes nothing.
    world.policy.replace(matcher(&["{host: b.example, port: 1}".to_owned(), endpoint(port, "")]));
    origin.write_all(b"on").await.unwrap();
    assert_eq!(read_exactly(&mut stream, 2).await, "on");
    // What would be inspected now cannot go on as it is.
    world.policy.replace(matcher(&[endpoint(port, ", protocol: rest, access: full")]));
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(read_to_end(&mut origin).await, "");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Revoked);

    world.policy.replace(matcher(&[endpoint(port, "")]));
    let mut stream = world.tunnel(&target).await;
    world.policy.replace(matcher(&["{host: b.example, port: 1}".to_owned()]));
    assert_eq!(read_to_end(&mut stream).await, "");
    let event = world.event(Action::Deny).await;
    assert_eq!(event.reason, Reason::Policy(clawkeep_policy::Reason::Host));
}

#[tokio::test]
async fn answers_under_way_end_when_their_request_would_be_refused() {
    const PUBLIC: &str = ", protocol: rest, rules: [{allow: {method: GET, path: /public}}]";
    const OTHER: &str = ", protocol: rest, rules: [{allow: {method: GET, path: /other}}]";
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[endpoint(port, PUBLIC)])).await;
    world.http(listener, None, |_| async {
        let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
        let endless = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        http::Response::new(StreamBody::new(endless).boxed_unsync())
    });
    let host = format!("a.example:{port}");
    let get = format!("GET http://{host}/public HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut plain = world.connect().await;
    plain.write_all(get.as_bytes()).await.unwrap();
    let mut tunnel = world.tunnel(&host).await;
    tunnel.write_all(get.replace(&format!("http://{host}"), "").as_bytes()).await.unwrap();
    for stream in [&mut plain, &mut tunnel] {
        read_head(stream).await;
        assert_eq!(read_exactly(stream, 10).await, "5\r\nfirst\r\n");
    }
    // What the new policy allows as well goes on.
    world.policy.replace(matcher(&[endpoint(port, PUBLIC), endpoint(1, OTHER)]));
    let again = get.replace(&format!("http://{host}"), "");
    let mut other = world.tunnel(&host).await;
    other.write_all(again.as_bytes()).await.unwrap();
    read_head(&mut other).await;
    world.policy.replace(matcher(&[endpoint(port, OTHER)]));
    for stream in [&mut plain, &mut tunnel] {
        assert_eq!(read_to_end(stream).await, "", "cut off without a last chunk");
        let event = world.event(Action::Deny).await;
        assert_eq!(event.reason, Reason::Policy(clawkeep_policy::Reason::Request));
    }
}

#[tokio::test]
async fn one_refused_stream_of_http2_ends_its_connection() {
    let (listener, port) = World::origin().await;
    let rules = ", protocol: rest, rules: [{allow: {method: GET, path: /public}}]";
    let mut world = World::new(matcher(&[endpoint(port, rules)])).await;
    let (ended, mut end) = tokio::sync::mpsc::unbounded_channel();
    world.http(listener, Some(("a.example", true)), move |_| {
        let held = Told(ended.clone());
        let endless = futures_util::stream::poll_fn(move |_| {
            let _ = &held;
            std::task::Poll::Pending
        });
        async { http::Response::new(StreamBody::new(endless).boxed_unsync()) }
    });
    let target = format!("a.example:{port}");
    let tls = world.inspected(&target, &[b"h2"]).await;
    let io = hyper_util::rt::TokioIo::new(tls);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let body = http_body_util::Empty::<Bytes>::new();
    let request = http::Request::get(format!("https://{target}/public")).body(body).unwrap();
    let mut answer = sender.send_request(request).await.unwrap().into_body();
    world.policy.replace(matcher(&[endpoint(port, &rules.replace("public", "other"))]));
    let frame = tokio::time::timeout(super::world::DEADLINE, answer.frame()).await.expect("an end in time");
    assert!(frame.is_none_or(|frame| frame.is_err()));
    drop((sender, answer));
    let _ = tokio::time::timeout(super::world::DEADLINE, connection).await.expect("the connection has ended");
    // And the stream from the origin with it.
    tokio::time::timeout(super::world::DEADLINE, end.recv()).await.expect("the origin is told").unwrap();
}

/// Tells when it goes.
struct Told(tokio::sync::mpsc::UnboundedSender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
