//! The route proven by the way that the agent's own requests take: a connection in the sandbox's network to its proxy,
//! TLS that trusts what programs inside trust, `inference.local`, the provider. The question is the list of models,
//! which costs nothing.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clawkeep_guards::CA_BUNDLE;
use clawkeep_inference::{HOST, LiveService, PROOF_HEADER, Seen, Service};
use clawkeep_plan::SandboxName;
use clawkeep_recovery::Phase;
use clawkeep_store::{Entry, JournalWriter, unix_ms};
use clawkeep_supervisor::{InitClient, Snapshot, open_inside};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::api::{Failure, RouteProof};
use crate::status::rfc3339;

/// Between two proofs of a well route whose providers are all on this host.
const EVERY: Duration = Duration::from_secs(60);

/// The same where one of them is elsewhere, and counts who asks it.
const EVERY_AFAR: Duration = Duration::from_secs(300);

/// Between two proofs of one that is not well.
const AGAIN: Duration = Duration::from_secs(15);

/// For each step up to TLS. All of it is on this host.
const STEP: Duration = Duration::from_secs(10);

/// For the answer.
const ANSWER: Duration = Duration::from_secs(20);

/// The largest bundle of certificates that is read, in bytes.
const MAX_BUNDLE: u64 = 4 << 20;

/// The largest refusal that is read, in bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// Where on the way it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The sandbox itself gives no connection.
    Sandbox,
    /// Its proxy does not answer.
    Proxy,
    /// Programs inside do not trust who answers as `inference.local`.
    Trust,
    /// The provider, or the key to it.
    Provider,
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Proxy => "proxy",
            Self::Trust => "trust",
            Self::Provider => "provider",
        }
    }
}

/// Why the route is not proven.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flaw {
    place: Place,
    what: String,
    next: String,
}

/// The last proof, or the last attempt at one.
#[derive(Debug, Clone)]
pub struct Proof {
    at_ms: u64,
    /// Since when it has been so.
    since_ms: u64,
    /// How long it took; `None` where an answer to the agent itself is the proof.
    took: Option<Duration>,
    flaw: Option<Flaw>,
    /// The route that it is about.
    service: Weak<Service>,
}

/// Proves the route of one sandbox.
pub struct Prover {
    pub name: SandboxName,
    pub client: watch::Receiver<Option<InitClient>>,
    /// Its root directory.
    pub root: watch::Receiver<Option<Arc<OwnedFd>>>,
    pub status: watch::Receiver<Snapshot>,
    pub inference: LiveService,
    pub journal: Arc<JournalWriter>,
    /// The proxy's port, as the sandbox sees it.
    pub port: u16,
    /// Whom alone the proxy serves, where others can reach it.
    pub uid: Option<u32>,
    /// Where the certificates lie that programs trust, where there is no root directory to look from.
    pub bundle: Option<PathBuf>,
    pub proof: watch::Sender<Option<Proof>>,
}

impl Prover {
    /// Prove it now and again while the sandbox is ready, for as long as it is supervised.
    pub async fn keep(self: Arc<Self>) {
        let mut status = self.status.clone();
        while status.wait_for(|snapshot| matches!(snapshot.phase, Phase::Ready { .. })).await.is_ok() {
            if !self.agent_proved_it() {
                self.prove(Some(self.period() / 2)).await;
            }
            let well = self.proof.borrow().as_ref().is_some_and(|proof| proof.flaw.is_none());
            let pause = if well { self.period() } else { AGAIN };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inference.replaced() => {}
            }
        }
    }

    fn period(&self) -> Duration {
        let current = self.inference.current();
        let route = current.route();
        let mut urls = std::iter::once(route).chain(&route.fallbacks).filter_map(|r| r.effective_base_url());
        let near = urls.all(|url| {
            let host = url.split("://").nth(1).unwrap_or_default();
            ["127.", "localhost", "[::1]"].iter().any(|near| host.starts_with(near))
        });
        if near { EVERY } else { EVERY_AFAR }
    }

    /// Whether the agent was answered since the route was proven last: that is a proof, and nobody has to be asked.
    fn agent_proved_it(&self) -> bool {
        let answered = self.inference.current().meter().answered_ms();
        let mut proved = false;
        self.proof.send_if_modified(|proof| match proof {
            Some(proof) if self.is_current(proof) && proof.flaw.is_none() && answered > proof.at_ms => {
                (proof.at_ms, proof.took, proved) = (answered, None, true);
                true
            }
            _ => false,
        });
        proved
    }

    fn is_current(&self, proof: &Proof) -> bool {
        Weak::ptr_eq(&proof.service, &Arc::downgrade(&self.inference.current()))
    }

    /// Prove it now. What came of it is told by [`Prover::told`]. A fall-back of which something is known that is no
    /// older than this is left alone.
    async fn prove(&self, fresh: Option<Duration>) {
        let service = self.inference.current();
        let begun = Instant::now();
        let outcome = self.through(&service).await;
        let took = begun.elapsed();
        // The fall-backs that were not asked.
        service.look(fresh.unwrap_or_else(|| begun.elapsed())).await;
        let flaw = outcome.err();
        let (now, before) = (unix_ms(), self.proof.borrow().clone());
        let same = |before: &&Proof| before.flaw.is_none() == flaw.is_none() && self.is_current(before);
        let since_ms = before.as_ref().filter(same).map_or(now, |before| before.since_ms);
        self.tell(before.as_ref().and_then(|before| before.flaw.as_ref()), flaw.as_ref());
        let service = Arc::downgrade(&service);
        self.proof.send_replace(Some(Proof { at_ms: now, since_ms, took: Some(took), flaw, service }));
    }

    /// What fails on our side of the way, once when it begins and once when it ends. What fails at a provider is told by
    /// the route itself.
    fn tell(&self, before: Option<&Flaw>, now: Option<&Flaw>) {
        let ours = |flaw: Option<&Flaw>| flaw.filter(|flaw| flaw.place != Place::Provider).cloned();
        let (kind, cause, data) = match (ours(before), ours(now)) {
            (None, Some(Flaw { place, what, next })) => {
                ("route-unproven", what, serde_json::json!({ "place": place.word(), "next": next }))
            }
            (Some(_), None) => {
                ("route-proven", "the way to the model is whole again".into(), serde_json::json!({}))
            }
            _ => return,
        };
        let sandbox = Some(self.name.clone());
        self.journal.record(Entry { at_ms: unix_ms(), sandbox, kind: kind.into(), cause, data });
    }

    /// What is known, for the status; nothing of a route that is no more.
    pub fn told(&self) -> Option<RouteProof> {
        let proof = self.proof.borrow().clone().filter(|proof| self.is_current(proof))?;
        let now = unix_ms();
        // An answer to the agent since then is a newer proof.
        let answered = self.inference.current().meter().answered_ms();
        let by_agent = proof.flaw.is_none() && answered > proof.at_ms;
        let at_ms = if by_agent { answered } else { proof.at_ms };
        let flaw = proof.flaw;
        Some(RouteProof {
            state: if flaw.is_none() { "proven" } else { "failing" }.to_owned(),
            at: rfc3339(at_ms),
            age_ms: now.saturating_sub(at_ms),
            since: rfc3339(proof.since_ms),
            took_ms: proof.took.filter(|_| !by_agent).map(|took| took.as_millis() as u64),
            place: flaw.as_ref().map(|flaw| flaw.place.word().to_owned()),
            what: flaw.as_ref().map(|flaw| flaw.what.clone()),
            next: flaw.map(|flaw| flaw.next),
        })
    }

    async fn through(&self, service: &Arc<Service>) -> Result<(), Flaw> {
        let name = &self.name;
        let sandbox = |what: String| {
            let next = format!("clawkeep {name} recover");
            Flaw { place: Place::Sandbox, what, next }
        };
        let client = self.client.borrow().clone().ok_or_else(|| sandbox("the sandbox is down".into()))?;
        let bundle = self.trusted().map_err(|error| self.distrusted(&format!("{CA_BUNDLE}: {error}")))?;
        let socket = client.socket().await.map_err(|error| sandbox(error.to_string()))?;
        if let Some(uid) = self.uid {
            let owned = rustix::fs::fchown(socket.as_fd(), Some(rustix::fs::Uid::from_raw(uid)), None);
            owned.map_err(|error| sandbox(error.to_string()))?;
        }
        let address = (std::net::Ipv4Addr::LOCALHOST, self.port).into();
        let stream = timeout(STEP, socket.connect(address)).await;
        let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|error| self.proxy_silent(&error))?;
        let answer = ask(stream, &bundle, service.meter().proof()).await.map_err(|broken| match broken {
            Broken::Proxy(error) => self.proxy_silent(&error),
            Broken::Trust(why) => self.distrusted(&why),
            Broken::Silent => self.unprovided(service, format!("no answer within {} s", ANSWER.as_secs())),
        })?;
        match (answer.status, answer.code.as_deref()) {
            // It is busy with the agent's own requests.
            (_, Some("too_many_requests" | "queue_timeout")) => Ok(()),
            // Not every provider has a list.
            (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST, _) => Ok(()),
            (status, _) if status.is_success() => Ok(()),
            (status, _) => Err(self.unprovided(service, format!("the answer was HTTP {status}"))),
        }
    }

    fn proxy_silent(&self, error: &io::Error) -> Flaw {
        let what = format!("the sandbox's proxy at 127.0.0.1:{} does not answer: {error}", self.port);
        Flaw { place: Place::Proxy, what, next: format!("clawkeep {} rebuild", self.name) }
    }

    fn distrusted(&self, why: &str) -> Flaw {
        let what = format!("programs in the sandbox do not trust {HOST}: {why}");
        Flaw { place: Place::Trust, what, next: format!("clawkeep {} rebuild", self.name) }
    }

    /// The route knows better what its provider did.
    fn unprovided(&self, service: &Service, what: String) -> Flaw {
        let Seen { routes, .. } = service.seen();
        let failing = routes.into_iter().find_map(|route| route.failing);
        let next = format!("clawkeep {} inference get", self.name);
        let (what, next) = match (service.key_trouble(), failing) {
            (Some(cause), _) => {
                let next = format!("clawkeep credentials add route-key --sandbox {}", self.name);
                (format!("its key cannot be read: {cause}"), next)
            }
            (None, Some(failing)) => (failing.what, failing.next.replace("NAME", self.name.as_str())),
            (None, None) => (what, next),
        };
        Flaw { place: Place::Provider, what, next }
    }

    /// The certificates that programs inside trust, as they find them.
    fn trusted(&self) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match (&self.bundle, self.root.borrow().clone()) {
            (Some(path), _) => rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty())?,
            (None, Some(root)) => open_inside(root.as_fd(), CA_BUNDLE, flags)?,
            (None, None) => return Err(io::Error::other("the sandbox is down")),
        };
        let mut bytes = Vec::new();
        std::fs::File::from(fd).take(MAX_BUNDLE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Where the way breaks off.
#[derive(Debug)]
enum Broken {
    Proxy(io::Error),
    Trust(String),
    Silent,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    /// The stable word of a refusal.
    code: Option<String>,
}

/// Ask for the list of models, over a connection to the proxy.
async fn ask<S>(stream: S, bundle: &[u8], word: &str) -> Result<Answer, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slow = || io::Error::from(io::ErrorKind::TimedOut);
    let stream =
        timeout(STEP, tunnel(stream)).await.unwrap_or_else(|_| Err(slow())).map_err(Broken::Proxy)?;
    let roots = clawkeep_outbound::roots_of(bundle)
        .ok_or_else(|| Broken::Trust(format!("{CA_BUNDLE} has no certificate in it")))?;
    let config = clawkeep_outbound::client_config(roots, &[b"http/1.1"]);
    let name = ServerName::try_from(HOST).map_err(|error| Broken::Trust(error.to_string()))?;
    let tls = timeout(STEP, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    let tls = tls.unwrap_or_else(|_| Err(slow())).map_err(|error| match error.kind() {
        // What a reader of TLS finds wrong; anything else is the connection.
        io::ErrorKind::InvalidData => Broken::Trust(error.to_string()),
        _ => Broken::Proxy(error),
    })?;
    timeout(ANSWER, request(tls, word)).await.map_err(|_| Broken::Silent)?.map_err(Broken::Proxy)
}

/// The answer to CONNECT (RFC 9110, 9.3.6).
async fn tunnel<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<S> {
    let head = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > 4096 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer to CONNECT has no end"));
        }
        // Byte by byte: what follows belongs to TLS.
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(stream);
    }
    let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let first = String::from_utf8_lossy(&first[..first.len().min(100)]).into_owned();
    Err(io::Error::other(format!("it answered CONNECT with {first:?}")))
}

async fn request<S>(tls: TlsStream<S>, word: &str) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = io::Error::other::<hyper::Error>;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/v1/models")
        .header("host", HOST)
        .header("accept", "application/json")
        .header(PROOF_HEADER, word)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(failed);
    let answer = match answer {
        Ok(response) => {
            let status = response.status();
            let code = if status.is_success() { None } else { code_of(response.into_body()).await };
            Ok(Answer { status, code })
        }
        Err(error) => Err(error),
    };
    driver.abort();
    answer
}

async fn code_of(body: hyper::body::Incoming) -> Option<String> {
    let body = Limited::new(body, MAX_REFUSAL).collect().await.ok()?.to_bytes();
    let said: serde_json::Value = serde_json::from_slice(&body).ok()?;
    said["error"]["code"].as_str().map(str::to_owned)
}

/// Prove it now, for somebody who asks.
pub async fn now(prover: &Prover) -> Result<(), Failure> {
    if prover.client.borrow().is_none() {
        return Err(crate::sessions::sandbox_down(prover.name.as_str()));
    }
    prover.prove(None).await;
    Ok(())
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
