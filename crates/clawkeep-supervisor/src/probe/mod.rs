//! Is it well? Asked on the sandbox's loopback, from outside.
//!
//! Within a period the gateway is asked twice, over two connections: whether it is ready, and, when that is not
//! answered, whether it lives. Two silences are a hang only if nobody else can be to blame: what counts is the
//! time in which this process could run ([`Patience`]) and so could the one that was asked ([`Evidence`]). A
//! gateway on an idle host is found hung within two periods of the moment in which it hangs, one on a starved
//! host within five.

mod evidence;
mod http;
mod patience;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clawkeep_agents::{Canary, HealthSpec, Probe, ProbeVerdict};
use clawkeep_recovery::Health;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use crate::client::InitClient;
pub(crate) use evidence::{Evidence, stopped};
use evidence::{Eyes, Look};
use patience::{Patience, Waited};

/// Silences in a row, each as long as the patience, after which not even a starved host is an excuse.
const MAX_SILENCES: u32 = 4;

/// The part of its patience that a hung process must have been able to run, in percent.
const ABLE: u32 = 80;

/// The part of the patience after which the second question is put, in percent.
const FIRST_ALONE: u32 = 60;

/// What a probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// This is how the gateway is.
    Health(Health),
    /// It is ready, and the canary lives.
    Proved,
    /// It says that it is ready, and the canary says that it does not serve: why.
    NotProved(String),
    /// It was silent, and could have answered.
    Hung(Evidence),
    /// The sandbox's init was silent, and could have answered: without it nothing can be asked or done.
    InitHung(Evidence),
    /// It was silent, and could not have answered. Not the last word: it is being asked again.
    Starved(Evidence),
}

/// One probe.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub spec: HealthSpec,
    /// The gateway, as the sandbox sees it.
    pub gateway: i32,
    /// The sandbox's first process, likewise.
    pub init: i32,
    /// Whether silence is to be judged: not while it warms up, but that it is stopped counts then as well.
    pub judge: bool,
    /// Whether the canary is due.
    pub canary: bool,
}

/// Somebody who makes sockets in the sandbox's network.
pub(crate) trait Reach: Send + Sync + 'static {
    /// A socket there. `TimedOut`: no answer.
    fn socket(&self) -> impl Future<Output = io::Result<TcpSocket>> + Send;
}

impl Reach for InitClient {
    fn socket(&self) -> impl Future<Output = io::Result<TcpSocket>> + Send {
        InitClient::socket(self)
    }
}

/// Ask, until it is known how the gateway is. What is found is told, the last word last.
pub(crate) async fn probe(reach: &impl Reach, proc: OwnedFd, asking: &Asking, tell: impl Fn(Found)) {
    let prober = Prober {
        reach,
        asking,
        eyes: Eyes::new(proc),
        patience: Patience::new(asking.spec.period()),
        reached: AtomicBool::new(false),
    };
    let mut able = Duration::ZERO;
    for silences in 1.. {
        let looks = match prober.ask().await {
            Asked::Found(found) => return tell(found),
            Asked::Silent(looks) => looks,
        };
        let init = !prober.reached.load(Ordering::Relaxed);
        let look = if init { looks.init } else { looks.gateway };
        // No process to be seen: its end is on its way to us, or there is no telling.
        let Some(evidence) = look.and_then(|look| prober.eyes.since(&look)) else {
            return tell(Found::Health(Health::Unknown));
        };
        able += evidence.able();
        let enough = able * 100 >= asking.spec.patience() * ABLE || silences == MAX_SILENCES;
        if init && (enough || evidence.stopped()) {
            return tell(Found::InitHung(evidence));
        } else if !init && (enough && asking.judge || evidence.stopped()) {
            return tell(Found::Hung(evidence));
        } else if !init && !asking.judge {
            return tell(Found::Health(Health::Deaf));
        }
        tell(Found::Starved(evidence));
    }
}

struct Prober<'a, R> {
    reach: &'a R,
    asking: &'a Asking,
    eyes: Eyes,
    patience: Patience,
    /// Whether init did its part since the questions began.
    reached: AtomicBool,
}

/// One look at each of the two who may be to blame.
struct Looks {
    gateway: Option<Look>,
    init: Option<Look>,
}

enum Asked {
    Found(Found),
    Silent(Looks),
}

/// How a question ended.
enum Answer {
    Said(ProbeVerdict),
    /// Nobody listens, or whoever does hangs up.
    Nobody,
    /// The question could not be put.
    Gone,
}

impl<R: Reach> Prober<'_, R> {
    fn look(&self) -> Looks {
        Looks { gateway: self.eyes.look(self.asking.gateway), init: self.eyes.look(self.asking.init) }
    }

    /// Both questions.
    async fn ask(&self) -> Asked {
        self.reached.store(false, Ordering::Relaxed);
        let (spec, found) = (&self.asking.spec, |health| Asked::Found(Found::Health(health)));
        let ready = self.question(&spec.ready);
        tokio::pin!(ready);
        let mut looks = None;
        // What is answered at once, as nearly all is, costs no look.
        let (prompt, alone) = (self.patience.tick(), spec.patience() * FIRST_ALONE / 100);
        let mut first = tokio::select! {
            biased;
            answer = &mut ready => Some(answer),
            _ = sleep(prompt) => None,
        };
        if first.is_none() {
            looks = Some(self.look());
            first = tokio::select! {
                biased;
                answer = &mut ready => Some(answer),
                waited = self.patience.wait(alone.saturating_sub(prompt)) => match waited {
                    Waited::Whole => None,
                    Waited::InVain => return found(Health::Unknown),
                },
            };
        }
        let asked_once = spec.ready == spec.live;
        match first {
            Some(Answer::Said(ProbeVerdict::Live)) => return self.prove().await,
            Some(Answer::Gone) => return found(Health::Unknown),
            Some(Answer::Said(_)) if asked_once => return found(Health::Deaf),
            Some(Answer::Nobody) => return found(Health::Deaf),
            Some(Answer::Said(_)) | None => {}
        }
        let looks = looks.unwrap_or_else(|| self.look());
        let live = self.question(&spec.live);
        let rest = self.patience.wait(spec.patience().saturating_sub(alone));
        tokio::pin!(live, rest);
        let mut waits_for_ready = first.is_none();
        loop {
            tokio::select! {
                biased;
                answer = &mut ready, if waits_for_ready => match answer {
                    Answer::Said(ProbeVerdict::Live) => return self.prove().await,
                    Answer::Gone => return found(Health::Unknown),
                    Answer::Said(_) if asked_once => return found(Health::Deaf),
                    Answer::Said(_) | Answer::Nobody => waits_for_ready = false,
                },
                answer = &mut live => return found(match answer {
                    // The first answer, late as it is, is the better one: it may be here as well.
                    Answer::Said(ProbeVerdict::Live) if asked_once => return self.prove().await,
                    Answer::Said(ProbeVerdict::Live) => Health::Alive,
                    Answer::Said(_) | Answer::Nobody => Health::Deaf,
                    Answer::Gone => Health::Unknown,
                }),
                waited = &mut rest => return match waited {
                    Waited::Whole => Asked::Silent(looks),
                    Waited::InVain => found(Health::Unknown),
                },
            }
        }
    }

    /// Put a question, again and again while nobody listens: somebody may in a moment. But at a start, that is
    /// asked for often enough anyway.
    async fn question(&self, probe: &Probe) -> Answer {
        loop {
            match self.once(probe).await {
                Answer::Nobody if self.asking.judge => sleep(self.asking.spec.period() / 10).await,
                answer => return answer,
            }
        }
    }

    async fn once(&self, probe: &Probe) -> Answer {
        let stream = match self.connect().await {
            Ok(stream) => stream,
            Err(answer) => return answer,
        };
        match probe {
            // The kernel accepts in the name of a stopped process as well.
            Probe::Tcp if self.eyes.sees_stopped(self.asking.gateway) => std::future::pending().await,
            Probe::Tcp => Answer::Said(ProbeVerdict::Live),
            Probe::Http { path, expect } => match http::get(stream, self.asking.spec.port, path).await {
                Some((status, body)) => Answer::Said(expect.classify(status, &body)),
                None => Answer::Nobody,
            },
        }
    }

    async fn connect(&self) -> Result<TcpStream, Answer> {
        let socket = match self.reach.socket().await {
            Ok(socket) => socket,
            // Who waits for this is who has the patience.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => std::future::pending().await,
            Err(_) => return Err(Answer::Gone),
        };
        self.reached.store(true, Ordering::Relaxed);
        let address = (std::net::Ipv4Addr::LOCALHOST, self.asking.spec.port);
        let stream = socket.connect(address.into()).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Answer::Nobody,
            _ => Answer::Gone,
        })?;
        // Only a delay, where it cannot be had.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// It says that it is ready. Where the canary is due, see whether it sings.
    async fn prove(&self) -> Asked {
        let ready = Asked::Found(Found::Health(Health::Ready));
        let Some(canary) = self.asking.spec.canary.as_ref().filter(|_| self.asking.canary) else {
            return ready;
        };
        let before = self.eyes.look(self.asking.gateway);
        let patience = self.asking.spec.patience() * FIRST_ALONE / 100;
        let sung = tokio::select! {
            biased;
            sung = self.sing(canary) => sung,
            waited = self.patience.wait(patience) => match waited {
                Waited::Whole => Err(Some("the WebSocket gave no hello in time".into())),
                Waited::InVain => return ready,
            },
        };
        match sung {
            Ok(()) => Asked::Found(Found::Proved),
            Err(None) => ready,
            Err(Some(why)) => {
                let evidence = before.and_then(|look| self.eyes.since(&look));
                // What a starved one does not do proves nothing.
                match evidence.is_some_and(|evidence| evidence.starved * 4 < evidence.silent) {
                    true => Asked::Found(Found::NotProved(why)),
                    false => ready,
                }
            }
        }
    }

    /// `Err(None)`: it could not be asked.
    async fn sing(&self, canary: &Canary) -> Result<(), Option<String>> {
        let stream = self.connect().await.map_err(|answer| match answer {
            Answer::Nobody => Some("nobody listens for WebSockets".into()),
            Answer::Gone | Answer::Said(_) => None,
        })?;
        http::hello(stream, self.asking.spec.port, &canary.path, &canary.event).await.map_err(Some)
    }
}

#[cfg(test)]
mod tests;
