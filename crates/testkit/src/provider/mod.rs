//! Fake providers of models, for tests: they speak OpenAI's or Anthropic's API as the real ones do, each request is
//! answered by a script, and what was asked is written down. On the loopback, one thread a connection; no model.

mod anthropic;
mod http;
mod openai;
mod script;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use script::{Answer, Ending};

use crate::free_port;

/// Requests that are kept; the oldest goes first.
const MAX_KEPT: usize = 256;

/// What is kept of each body, in bytes.
const MAX_KEPT_BODY: usize = 1 << 20;

/// Which API a fake provider speaks. The other one's calls are not found there, as at the real ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's chat completions, responses, embeddings and models.
    OpenAi,
    /// Anthropic's messages, their tokens, and models.
    Anthropic,
}

/// A request, as it came, and what became of it.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `GET` or `POST`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header names in lowercase, with their values.
    pub headers: Vec<(String, String)>,
    /// The first MiB of the body.
    pub body: Vec<u8>,
    /// Events of the answer that were sent so far; of one that is no stream, its halves.
    pub sent: usize,
    /// The first MiB of what was sent as the answer's body, without its transfer coding.
    pub answer: Vec<u8>,
    /// How it ended; `None` while it is being answered.
    pub end: Option<End>,
}

/// How the answer to a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was sent whole, with this status.
    Whole(u16),
    /// It was broken off, as the script says.
    Broken,
    /// Whoever asked went away before it was whole.
    Abandoned,
}

impl Asked {
    /// The first header of this name (in lowercase).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The key that it shows, by either API's header.
    pub fn key(&self) -> Option<&str> {
        self.header("x-api-key").or_else(|| self.header("authorization")?.strip_prefix("Bearer "))
    }

    /// Whether it is a turn: what costs tokens, no list and no count.
    pub fn is_turn(&self) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        ["/chat/completions", "/responses", "/messages"].iter().any(|turn| path.ends_with(turn))
    }
}

/// A fake provider of models on a port of the loopback. It ends when dropped.
#[derive(Debug)]
pub struct FakeProvider {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<Listening>>,
}

/// What all of its connections share.
#[derive(Debug)]
struct Shared {
    api: Api,
    state: Mutex<State>,
    /// Told when an answer that was held may go on.
    released: Condvar,
    connections: AtomicUsize,
}

#[derive(Debug)]
struct State {
    models: Vec<String>,
    /// Keys that are accepted; `None`: nobody is asked for one.
    keys: Option<Vec<String>>,
    script: VecDeque<Answer>,
    otherwise: Answer,
    asked: VecDeque<(usize, Asked)>,
    count: usize,
    /// How many times answers that are held were let go on.
    releases: usize,
    open: Vec<(usize, TcpStream)>,
}

#[derive(Debug)]
struct Listening {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl FakeProvider {
    /// One that speaks OpenAI's API and has these models.
    pub fn openai(models: &[&str]) -> Self {
        Self::new(Api::OpenAi, models)
    }

    /// One that speaks Anthropic's API and has these models.
    pub fn anthropic(models: &[&str]) -> Self {
        Self::new(Api::Anthropic, models)
    }

    /// One that speaks this API. It answers every turn with `pong` until it is told otherwise.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn new(api: Api, models: &[&str]) -> Self {
        let state = State {
            models: models.iter().map(|model| (*model).to_owned()).collect(),
            keys: None,
            script: VecDeque::new(),
            otherwise: Answer::text("pong"),
            asked: VecDeque::new(),
            count: 0,
            releases: 0,
            open: Vec::new(),
        };
        let shared = Arc::new(Shared {
            api,
            state: Mutex::new(state),
            released: Condvar::new(),
            connections: AtomicUsize::new(0),
        });
        // No port that the kernel gives to others: it comes back to the same one after an outage.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let provider = Self { address, shared, listening: Mutex::new(None) };
        provider.comes_back();
        provider
    }

    /// Its base URL, as it is given to `--endpoint-url`. Any other path before `/v1` does as well.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next turns are answered so, one each, in this order.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.lock().script.extend(answers);
    }

    /// Turns are answered so when the script is at its end.
    pub fn always(&self, answer: Answer) {
        self.shared.lock().otherwise = answer;
    }

    /// From now on these keys alone are accepted; without one of them the answer is 401.
    pub fn accept_keys(&self, keys: &[&str]) {
        self.shared.lock().keys = Some(keys.iter().map(|key| (*key).to_owned()).collect());
    }

    /// What was asked, the oldest first, the last 256.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.iter().map(|(_, asked)| asked.clone()).collect()
    }

    /// The turns among it.
    pub fn turns(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(Asked::is_turn).collect()
    }

    /// Forget what was asked so far.
    pub fn forget(&self) {
        self.shared.lock().asked.clear();
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Answers that are held go on.
    pub fn release(&self) {
        self.shared.lock().releases += 1;
        self.shared.released.notify_all();
    }

    /// As if its process died: nobody listens, every connection is closed. What it knows stays.
    pub fn goes_down(&self) {
        let Some(Listening { stop, thread }) = self.listening().take() else { return };
        stop.store(true, Ordering::SeqCst);
        // Wakes the thread; it closes the listener before it ends.
        let _ = TcpStream::connect(self.address);
        let _ = thread.join();
        for (_, stream) in self.shared.lock().open.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// It listens again, on the same port.
    ///
    /// # Panics
    /// When it cannot.
    pub fn comes_back(&self) {
        let mut listening = self.listening();
        if listening.is_some() {
            return;
        }
        let listener = TcpListener::bind(self.address)
            .unwrap_or_else(|error| panic!("a fake provider cannot listen at {}: {error}", self.address));
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&self.shared));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    serve::begin(&shared, stream);
                }
            }
        });
        *listening = Some(Listening { stop, thread });
    }

    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.goes_down();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Write a request down, and give its number.
    fn note(&mut self, mut asked: Asked) -> usize {
        asked.body.truncate(MAX_KEPT_BODY);
        if self.asked.len() == MAX_KEPT {
            self.asked.pop_front();
        }
        self.count += 1;
        self.asked.push_back((self.count, asked));
        self.count
    }

    /// The request of this number, if it is still kept.
    fn of(&mut self, number: usize) -> Option<&mut Asked> {
        self.asked.iter_mut().find(|(of, _)| *of == number).map(|(_, asked)| asked)
    }

    /// So much more of the answer to a request was sent.
    fn sent(&mut self, number: usize, part: &[u8]) {
        let Some(asked) = self.of(number) else { return };
        asked.sent += 1;
        let room = MAX_KEPT_BODY.saturating_sub(asked.answer.len());
        asked.answer.extend_from_slice(&part[..part.len().min(room)]);
    }
}
