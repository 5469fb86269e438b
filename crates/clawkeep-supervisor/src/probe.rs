//! Is it well? Asked on the sandbox's loopback, from outside.

use std::time::Duration;

use bytes::Bytes;
use clawkeep_agents::{HealthSpec, MAX_PROBE_BODY, Probe, ProbeVerdict};
use clawkeep_recovery::Health;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;

use crate::client::InitClient;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// This is how the gateway is.
    Health(Health),
    /// The sandbox's init did not answer, without which nothing can be asked or done.
    InitHung,
}

/// Ask for readiness, and if it is not, for life.
pub(crate) async fn health(client: &InitClient, spec: &HealthSpec) -> Found {
    match gateway(client, spec).await {
        Some(health) => Found::Health(health),
        None => Found::InitHung,
    }
}

async fn gateway(client: &InitClient, spec: &HealthSpec) -> Option<Health> {
    let health = match ask(client, spec.port, &spec.ready).await {
        Asked::Said(ProbeVerdict::Live) => Health::Ready,
        Asked::Gone => Health::Unknown,
        Asked::Hung => return None,
        Asked::Silent if spec.ready == spec.live => Health::Deaf,
        Asked::Said(_) | Asked::Silent => match ask(client, spec.port, &spec.live).await {
            Asked::Said(ProbeVerdict::Live) => Health::Alive,
            Asked::Said(ProbeVerdict::NotYet | ProbeVerdict::Wrong) | Asked::Silent => Health::Deaf,
            Asked::Gone => Health::Unknown,
            Asked::Hung => return None,
        },
    };
    Some(health)
}

enum Asked {
    Said(ProbeVerdict),
    /// Nobody listens, or nobody answers.
    Silent,
    /// The question could not be put.
    Gone,
    /// Init did not answer.
    Hung,
}

async fn ask(client: &InitClient, port: u16, probe: &Probe) -> Asked {
    let stream = match client.connect(port).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Asked::Silent,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Asked::Hung,
        Err(_) => return Asked::Gone,
    };
    let question = async {
        match probe {
            Probe::Tcp => Asked::Said(ProbeVerdict::Live),
            Probe::Http { path, expect } => match get(stream, port, path).await {
                Some((status, body)) => Asked::Said(expect.classify(status, &body)),
                None => Asked::Silent,
            },
        }
    };
    tokio::time::timeout(PATIENCE, question).await.unwrap_or(Asked::Silent)
}

async fn get(stream: tokio::net::TcpStream, port: u16, path: &str) -> Option<(u16, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = http::Request::get(path)
        .header("host", format!("127.0.0.1:{port}"))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let exchange = async {
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        // One byte over the limit is as good as a wrong answer; what came before it is not kept.
        let body = Limited::new(response.into_body(), MAX_PROBE_BODY).collect().await.ok()?;
        Some((status, body.to_bytes()))
    };
    // Apart from the exchange: a short answer and the end of its connection come in one piece.
    let driver = tokio::spawn(connection);
    let answer = exchange.await;
    driver.abort();
    answer
}
