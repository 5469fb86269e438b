//! Who asks, where a name leads, what may be dialed.

use std::net::SocketAddr;
use std::sync::Arc;

use clawkeep_policy::Reason as Policy;

use super::world::{Setup, World, matcher, read, read_exactly, status, text};
use crate::{Action, Callers, Reason};

fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

#[tokio::test]
async fn only_validated_addresses_are_dialed_though_the_name_changes_its_mind() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}}}")])).await;
    world.http(listener, None, |_| async { text("hello") });
    world.names.answer("a.example", &[&["198.41.0.7"], &["10.0.0.1"]]);
    let get = format!(
        "GET http://a.example:{port}/ HTTP/1.1\r\nHost: a.example:{port}\r\nConnection: close\r\n\r\n"
    );
    assert!(world.exchange(&get).await.ends_with("hello"));
    assert_eq!(world.dialed(), ["198.41.0.7"]);
    assert_eq!(world.event(Action::Allow).await.address, Some("127.0.0.1".parse().unwrap()));
    let answer = world.exchange(&get).await;
    assert_eq!(status(&answer), 403, "{answer}");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Policy(Policy::InternalAddress));
    assert_eq!(world.dialed(), ["198.41.0.7"], "nothing else was dialed");
}

#[tokio::test]
async fn one_address_that_may_not_be_dialed_refuses_them_all() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}}}")])).await;
    world.http(listener, None, |_| async { text("hello") });
    for (answer, reason) in [
        (&["198.41.0.7", "10.0.0.1"][..], Policy::InternalAddress),
        (&["10.0.0.1", "198.41.0.7"], Policy::InternalAddress),
        (&["198.41.0.7", "127.0.0.1"], Policy::SpecialAddress),
        (&["::1"], Policy::SpecialAddress),
        (&["::ffff:127.0.0.1"], Policy::SpecialAddress),
        (&["64:ff9b::a9fe:a9fe"], Policy::MetadataAddress),
        (&["169.254.169.254"], Policy::MetadataAddress),
        (&["fd00:ec2::254"], Policy::MetadataAddress),
        (&["0.0.0.0"], Policy::SpecialAddress),
    ] {
        world.names.answer("a.example", &[answer]);
        let refused = world.exchange(connect(&format!("a.example:{port}"))).await;
        assert_eq!(status(&refused), 403, "{answer:?}: {refused}");
        assert_eq!(world.event(Action::Deny).await.reason, Reason::Policy(reason), "{answer:?}");
    }
    world.names.answer("a.example", &[&[]]);
    assert_eq!(status(&world.exchange(connect(&format!("a.example:{port}"))).await), 502);
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Unresolved);
    assert_eq!(world.dialed(), [""; 0]);
}

#[tokio::test]
async fn this_host_is_reached_by_its_name_alone() {
    let (listener, port) = World::origin().await;
    let mut world = World::new(matcher(&[format!("{{host: host.openshell.internal, port: {port}}}")])).await;
    world.http(listener, None, |_| async { text("hello") });
    // Whatever a resolver would say.
    world.names.answer("host.openshell.internal", &[&["198.41.0.7"]]);
    let host = format!("host.openshell.internal:{port}");
    let get = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(world.exchange(get).await.ends_with("hello"));
    assert_eq!(world.dialed(), ["127.0.0.1"]);
    assert_eq!(status(&world.exchange(connect(&format!("127.0.0.1:{port}"))).await), 403);
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_told_from_a_refusal() {
    let (listener, port) = World::origin().await;
    drop(listener);
    let mut world = World::new(matcher(&[format!("{{host: a.example, port: {port}}}")])).await;
    let answer = world.exchange(connect(&format!("a.example:{port}"))).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(answer.contains("\"code\":\"upstream_connect\""), "{answer}");
    assert_eq!(world.event(Action::Deny).await.reason, Reason::Unreachable);
}

struct Told(Option<&'static str>);

impl Callers for Told {
    fn executable(&self, client: SocketAddr, server: SocketAddr) -> Option<String> {
        assert!(client.ip().is_loopback() && server.ip().is_loopback() && client.port() != server.port());
        self.0.map(str::to_owned)
    }
}

#[tokio::test]
async fn rules_for_programs_want_to_know_who_asks() {
    let (listener, port) = World::origin().await;
    let policy = read(&format!(
        "version: 1\nnetwork_policies:\n  git: {{endpoints: [{{host: a.example, port: {port}}}], binaries: [{{path: /usr/bin/git}}]}}\n"
    ));
    let hold = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"hi").await.unwrap();
            held.push(stream);
        }
    });
    for (told, expected) in [
        (Some("/usr/bin/git"), None),
        (Some("/usr/bin/curl"), Some(Policy::Binary)),
        (None, Some(Policy::CallerUnknown)),
    ] {
        let setup = Setup { callers: Arc::new(Told(told)), ..Setup::default() };
        let mut world = World::with(policy.clone(), setup).await;
        match expected {
            None => {
                let mut stream = world.tunnel(&format!("a.example:{port}")).await;
                // A server that speaks first is heard.
                assert_eq!(read_exactly(&mut stream, 2).await, "hi");
                assert_eq!(world.event(Action::Allow).await.caller.as_deref(), told);
            }
            Some(reason) => {
                let answer = world.exchange(connect(&format!("a.example:{port}"))).await;
                assert_eq!(status(&answer), 403, "{answer}");
                let event = world.event(Action::Deny).await;
                assert_eq!((event.reason, event.caller.as_deref()), (Reason::Policy(reason), told));
            }
        }
    }
    hold.abort();
}
