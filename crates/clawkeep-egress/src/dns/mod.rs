//! The name server of a sandbox: a stub on its loopback, served from outside.
//!
//! Tools that look a name up before they use the proxy get an answer for what some rule names, and for nothing else
//! is anybody asked outside. What is told is only what the proxy would dial.

mod names;
pub(crate) mod question;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clawkeep_policy::{Denial, Naming};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::event::{Action, Event, Reason, printable};
use crate::live::LivePolicy;
use crate::resolver::Resolver;
use names::{Names, Unanswered};
use question::{Answer, MAX_DATAGRAM, Question, Read};

/// What stands for a host that only the proxy reaches, `inference.local` or this host's own loopback: an address of
/// the documentation (RFC 5737), which is nobody's. A tool that refuses such addresses is not to fetch those hosts.
const BY_PROXY_ONLY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Questions of a sandbox: 200 at once, then 50 a second.
const QUESTIONS: (u32, Duration) = (200, Duration::from_millis(20));

/// Questions that wait for their answer at once, and connections.
const AT_ONCE: usize = 64;
const CONNECTIONS: usize = 16;

/// For the next question on a connection, and for its client to take an answer.
const IDLE: Duration = Duration::from_secs(5);

/// Of how many refusals the last are remembered, and for how long, so that the same is told once.
const TOLD: usize = 64;
const TOLD_FOR: Duration = Duration::from_secs(60);

/// The name server of one sandbox.
pub struct DnsStub {
    policy: LivePolicy,
    names: Names,
    questions: Mutex<Budget>,
    told: Mutex<HashMap<(String, Reason), Instant>>,
    events: mpsc::Sender<Event>,
}

impl DnsStub {
    /// Answer by this policy, asking this resolver. What is refused is told over the channel, each name once a
    /// minute; what does not fit into it is not told.
    pub fn new(policy: LivePolicy, resolver: Arc<dyn Resolver>, events: mpsc::Sender<Event>) -> Self {
        let (most, interval) = QUESTIONS;
        Self {
            policy,
            names: Names::new(resolver),
            questions: Mutex::new(Budget::new(most, interval)),
            told: Mutex::default(),
            events,
        }
    }

    /// Serve until dropped.
    pub async fn serve(self, udp: UdpSocket, tcp: TcpListener) {
        let stub = Arc::new(self);
        tokio::join!(Arc::clone(&stub).datagrams(Arc::new(udp)), stub.connections(tcp));
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut tasks = JoinSet::new();
        let mut bytes = [0; MAX_DATAGRAM];
        loop {
            let received = match socket.recv_from(&mut bytes).await {
                Ok(received) => received,
                Err(_) => {
                    pause().await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= AT_ONCE {
                // Lost, as any datagram may be: it is asked again.
                continue;
            }
            let (length, client) = received;
            let (stub, socket, question) = (Arc::clone(&self), Arc::clone(&socket), bytes[..length].to_vec());
            tasks.spawn(async move {
                if let Some(answer) = stub.answer(&question, Question::max_datagram).await {
                    // Whoever does not take it asks again.
                    let _ = socket.send_to(&answer, client).await;
                }
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    pause().await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            if let Ok(permit) = Arc::clone(&connections).try_acquire_owned() {
                let stub = Arc::clone(&self);
                tasks.spawn(async move {
                    // However it ends, it has ended.
                    let _ = stub.connection(stream).await;
                    drop(permit);
                });
            }
        }
    }

    /// Questions and answers with their lengths before them (RFC 7766).
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut question = vec![0; usize::from(tokio::time::timeout(IDLE, stream.read_u16()).await??)];
            if question.len() > MAX_DATAGRAM {
                return Ok(());
            }
            tokio::time::timeout(IDLE, stream.read_exact(&mut question)).await??;
            let Some(answer) = self.answer(&question, |_| usize::from(u16::MAX)).await else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let whole = [length.to_be_bytes().as_slice(), &answer].concat();
            tokio::time::timeout(IDLE, stream.write_all(&whole)).await??;
        }
    }

    async fn answer(&self, bytes: &[u8], most: impl Fn(&Question) -> usize) -> Option<Vec<u8>> {
        let question = match question::read(bytes) {
            Read::Nothing => return None,
            Read::Answered(answer) => return Some(answer),
            Read::Question(question) => question,
        };
        let some = self.questions.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = if some { self.decide(&question).await } else { Answer::Refused };
        question.answer(&answer, most(&question))
    }

    async fn decide(&self, question: &Question) -> Answer {
        let name = question.name.as_str();
        let policy = self.policy.current();
        let naming = match policy.named(name) {
            _ if name == clawkeep_inference::HOST => Naming::ThisHost,
            Some(naming) => naming,
            None => {
                // Programs ask for much else (the name of an address, services): only where they go is told.
                if question.addresses.is_some() {
                    self.refuse(name, Reason::Policy(clawkeep_policy::Reason::Host));
                }
                return Answer::NoSuchName;
            }
        };
        if naming == Naming::ThisHost {
            return Answer::Addresses(vec![IpAddr::V4(BY_PROXY_ONLY)]);
        }
        if question.addresses.is_none() {
            return Answer::Addresses(Vec::new());
        }
        match self.names.addresses(name, naming).await {
            // By the policy of this moment, which may be another one than when it was asked for.
            Ok(ips) => match self.policy.current().tellable(name, &ips) {
                Ok(()) => Answer::Addresses(ips),
                Err(Denial { reason, .. }) => {
                    self.refuse(name, Reason::Policy(reason));
                    Answer::Addresses(Vec::new())
                }
            },
            Err(Unanswered::Long) => {
                self.refuse(name, Reason::LongName);
                Answer::NoSuchName
            }
            Err(Unanswered::Many) => {
                self.refuse(name, Reason::ManyNames);
                Answer::Refused
            }
            Err(Unanswered::Failed) => Answer::Failed,
        }
    }

    /// Tell that a name was refused.
    fn refuse(&self, name: &str, reason: Reason) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, since| since.elapsed() < TOLD_FOR);
        let mut event = Event::about(&printable(name.as_bytes()), 0, Action::Deny, reason);
        let key = (event.host.clone(), reason);
        if told.len() < TOLD && !told.contains_key(&key) {
            told.insert(key, Instant::now());
            event.message = message(&event.host, reason);
            // What nobody takes is lost: an agent must not fill memory with names.
            let _ = self.events.try_send(event);
        }
    }
}

/// What was refused and why, one sentence.
fn message(name: &str, reason: Reason) -> String {
    match reason {
        Reason::LongName => {
            format!("the name {name} was looked up, which is too long for one under a wildcard")
        }
        Reason::ManyNames => {
            format!("the name {name} was looked up, one of too many different names under wildcards")
        }
        Reason::Policy(clawkeep_policy::Reason::Host) => {
            format!("the name {name} was looked up, and no rule names it")
        }
        _ => format!("the name {name} was looked up, and it has an address that may not be reached"),
    }
}

/// After an error of the socket itself, which may be there again at once.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
