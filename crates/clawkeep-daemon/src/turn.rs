//! One question to the agent, the way its clients ask it: over its own HTTP endpoint, from its loopback.

use std::time::Duration;

use clawkeep_store::Home;
use clawkeep_supervisor::Door;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;

use crate::api::Failure;
use crate::running::Running;
use crate::sessions::sandbox_down;

/// The first turn of a new agent loads much.
const PATIENCE: Duration = Duration::from_secs(240);

const MAX_ANSWER: usize = 4 << 20;

/// The agent's answer.
pub async fn ask(home: &Home, running: &Running, message: &str) -> Result<String, Failure> {
    let blueprint = running.blueprint();
    let name = &blueprint.name;
    let failed = |what: String| Failure::new("turn-failed", what, format!("clawkeep {name} logs --tail 50"));
    if blueprint.plan.agent.name != "openclaw" {
        return Err(Failure::new(
            "no-model",
            format!("the agent of {name} is a command: it takes no questions"),
            None,
        ));
    }
    let client = running.client.borrow().clone().ok_or_else(|| sandbox_down(name.as_str()))?;
    let door = Door::of(&blueprint).ok_or_else(|| failed("the agent has no port".into()))?;
    let dir =
        clawkeep_store::atomic::open_dir(&home.sandbox(name).home()).map_err(|e| failed(e.to_string()))?;
    let token =
        clawkeep_agents::openclaw::read_token(std::os::fd::AsFd::as_fd(&dir), running.status.borrow().safe)
            .map_err(|e| failed(e.to_string()))?
            .ok_or_else(|| failed("the agent's configuration has no token".into()))?;
    let body =
        serde_json::json!({ "model": "openclaw", "messages": [{ "role": "user", "content": message }] });
    let exchange = async {
        let stream = door.open(&client).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let request = http::Request::post("/v1/chat/completions")
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {}", token.expose()))
            .header("content-type", "application/json")
            .body(Full::new(bytes::Bytes::from(body.to_string())))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        driver.abort();
        Ok::<_, String>((status, body.to_bytes()))
    };
    let (status, body) = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| failed(format!("the agent did not answer within {} s", PATIENCE.as_secs())))?
        .map_err(|why| failed(format!("asking the agent: {why}")))?;
    let answer = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
    match answer["choices"][0]["message"]["content"].as_str() {
        Some(text) if status.is_success() => Ok(text.to_owned()),
        _ => Err(failed(format!("the agent answered {status} without a message"))),
    }
}
