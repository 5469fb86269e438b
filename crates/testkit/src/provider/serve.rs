use std::io::{BufReader, Result, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::script::{Content, Manner, Refusal};
use super::{Answer, Api, Asked, End, Ending, Shared, anthropic, http, openai};

/// How often one that waits looks whether whoever asked is still there.
const LOOK: Duration = Duration::from_millis(10);

/// An answer, ready to be sent.
pub(super) enum Reply {
    Whole { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    Events(Vec<String>, String),
    Silence,
}

impl Reply {
    pub(super) fn json(value: &Value) -> Self {
        Self::Whole { status: 200, headers: Vec::new(), body: value.to_string().into_bytes() }
    }
}

/// Serve a connection in a thread of its own. It ends with the connection.
pub(super) fn begin(shared: &Arc<Shared>, stream: TcpStream) {
    let Ok(handle) = stream.try_clone() else { return };
    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
    shared.lock().open.push((number, handle));
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        // One that breaks off is the asker's matter.
        let _ = converse(&shared, stream);
        shared.lock().open.retain(|(of, _)| *of != number);
    });
}

fn converse(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(asked) = http::read(&mut reader)? {
        let number = shared.lock().note(asked.clone());
        let (reply, manner) = answer(shared, &asked, number);
        let end = send(shared, &mut stream, reply, &manner, number).unwrap_or(End::Abandoned);
        if let Some(asked) = shared.lock().of(number) {
            asked.end = Some(end);
        }
        let whole = matches!(end, End::Whole(_));
        if !whole || asked.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    stream.shutdown(std::net::Shutdown::Both)
}

fn answer(shared: &Shared, asked: &Asked, number: usize) -> (Reply, Manner) {
    let api = shared.api;
    let refuse = |refusal: &Refusal| (error(api, refusal), Manner::default());
    let mut state = shared.lock();
    if let Some(keys) = &state.keys {
        // Each API knows its own header alone.
        let shown = match api {
            Api::OpenAi => asked.header("authorization").and_then(|value| value.strip_prefix("Bearer ")),
            Api::Anthropic => asked.header("x-api-key"),
        };
        if !shown.is_some_and(|shown| keys.iter().any(|key| key == shown)) {
            return refuse(&Refusal::new(401, "authentication_error", "invalid key"));
        }
    }
    let path = asked.target.split('?').next().unwrap_or_default();
    let call = path.find("/v1/").map_or("", |at| &path[at + 3..]);
    if (asked.method.as_str(), call) == ("GET", "/models") {
        let list = match api {
            Api::OpenAi => openai::models(&state.models),
            Api::Anthropic => anthropic::models(&state.models),
        };
        return (Reply::json(&list), Manner::default());
    }
    let known = match api {
        Api::OpenAi => &["/chat/completions", "/responses", "/embeddings"][..],
        Api::Anthropic => &["/messages", "/messages/count_tokens"],
    };
    if asked.method != "POST" || !known.contains(&call) {
        return refuse(&Refusal::new(404, "not_found_error", format!("no such call: {path}")));
    }
    let body = asked.json();
    let flaw = match api {
        Api::OpenAi => openai::flaw(call, &body),
        Api::Anthropic => anthropic::flaw(call, asked, &body),
    };
    if let Some(flaw) = flaw {
        return refuse(&Refusal::new(400, "invalid_request_error", flaw));
    }
    let model = body["model"].as_str().unwrap_or_default();
    if !state.models.iter().any(|have| have == model) {
        return refuse(&Refusal::new(404, "not_found_error", format!("there is no model {model}")));
    }
    match (api, call) {
        (Api::OpenAi, "/embeddings") => return (Reply::json(&openai::embeddings(&body)), Manner::default()),
        (Api::Anthropic, "/messages/count_tokens") => {
            return (Reply::json(&anthropic::count(&body)), Manner::default());
        }
        _ => {}
    }
    let answer = state.script.pop_front().unwrap_or_else(|| state.otherwise.clone());
    drop(state);
    let reply = match &answer.content {
        Content::Error(refusal) => error(api, refusal),
        Content::Exact { status, body } => {
            Reply::Whole { status: *status, headers: Vec::new(), body: body.clone() }
        }
        Content::Silence => Reply::Silence,
        _ if api == Api::Anthropic => anthropic::turn(&body, &answer, number),
        _ if call == "/responses" => openai::response(&body, &answer, number),
        _ => openai::chat(&body, &answer, number),
    };
    (reply, answer.manner)
}

fn error(api: Api, refusal: &Refusal) -> Reply {
    let body = match api {
        Api::OpenAi => openai::error(refusal),
        Api::Anthropic => anthropic::error(refusal),
    };
    let wait = refusal.retry_after.clone().map(|wait| ("Retry-After", wait));
    Reply::Whole {
        status: refusal.status,
        headers: wait.into_iter().collect(),
        body: body.to_string().into_bytes(),
    }
}

fn send(
    shared: &Shared,
    stream: &mut TcpStream,
    reply: Reply,
    manner: &Manner,
    number: usize,
) -> Result<End> {
    let content_type = |usual: &str| manner.content_type.clone().unwrap_or_else(|| usual.to_owned());
    let (events, error, status) = match reply {
        Reply::Silence => return wait_for_end(stream),
        Reply::Whole { status, headers, body } => {
            http::head(stream, status, &content_type("application/json"), &headers, Some(body.len()))?;
            let (first, rest) = body.split_at(body.len() / 2);
            (vec![first.to_vec(), rest.to_vec()], None, status)
        }
        Reply::Events(events, error) => {
            http::head(stream, 200, &content_type("text/event-stream"), &[], None)?;
            (events.into_iter().map(String::into_bytes).collect(), Some(error), 200)
        }
    };
    let releases = shared.lock().releases;
    for (index, event) in events.iter().enumerate() {
        if manner.hold == Some(index) && !wait_for_release(shared, stream, releases) {
            return Ok(End::Abandoned);
        }
        match manner.ending {
            Ending::Cut(after) if after == index => return Ok(End::Broken),
            Ending::Stall(after) if after == index => return wait_for_end(stream),
            Ending::Error(after) if after == index && error.is_some() => {
                let error = error.as_deref().unwrap_or_default().as_bytes();
                http::chunk(stream, error)?;
                shared.lock().sent(number, error);
                http::chunk(stream, b"")?;
                return Ok(End::Broken);
            }
            _ => {}
        }
        if index > 0 && !manner.pace.is_zero() {
            crate::pause(manner.pace);
        }
        match error {
            Some(_) => http::chunk(stream, event)?,
            None => stream.write_all(event)?,
        }
        shared.lock().sent(number, event);
    }
    if error.is_some() {
        http::chunk(stream, b"")?;
    }
    Ok(End::Whole(status))
}

/// Until whoever asked has gone away.
fn wait_for_end(stream: &TcpStream) -> Result<End> {
    while is_there(stream) {
        crate::pause(LOOK);
    }
    Ok(End::Abandoned)
}

/// Whether it was released; else whoever asked has gone away.
fn wait_for_release(shared: &Shared, stream: &TcpStream, before: usize) -> bool {
    let mut state = shared.lock();
    while state.releases == before {
        let waited = shared.released.wait_timeout(state, LOOK);
        state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        if !is_there(stream) {
            return false;
        }
    }
    true
}

/// Clients of models send nothing while they wait for an answer: an end is all that can come.
fn is_there(stream: &TcpStream) -> bool {
    let _ = stream.set_nonblocking(true);
    let peeked = stream.peek(&mut [0]);
    let _ = stream.set_nonblocking(false);
    match peeked {
        Ok(read) => read > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// A text in pieces that are one event each: its words, each with the space behind it.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

/// Arguments of a tool in pieces of a few characters, none of which is JSON.
pub(super) fn shreds(arguments: &Value) -> Vec<String> {
    let text: Vec<char> = arguments.to_string().chars().collect();
    text.chunks(7).map(|piece| piece.iter().collect()).collect()
}

/// Tokens in and out: as the script says, else four bytes are one.
pub(super) fn usage(body: &Value, answer: &Answer) -> (u64, u64) {
    answer.usage.unwrap_or_else(|| {
        let tokens = |text: &str| (text.len() as u64).div_ceil(4);
        let said = match &answer.content {
            Content::Text(text) => tokens(text),
            Content::Tool { arguments, .. } => tokens(&arguments.to_string()),
            _ => 0,
        };
        (tokens(&body.to_string()), said)
    })
}
