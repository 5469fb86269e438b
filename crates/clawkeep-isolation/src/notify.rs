//! Init's end of the seccomp listeners (seccomp_unotify(2)): what the program around a process refuses, the kernel
//! puts to us. The answer is an error number, or in the lower tier what [`Broker`] did instead: never is a call let
//! through, and nothing that it points to is read. Which calls were refused is told once for each listener.
//!
//! An agent can make refused calls as fast as it likes. A caller waits for its answer, so answers that come at a
//! bounded rate bound what a flood costs, and it costs those who flood.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::broker::Broker;
use crate::sockets::Answer;
use crate::{sys, wire};

/// Answers a second, in the long run.
const RATE: u32 = 2_000;

/// Answers at once after a rest: what programs probe for at their start costs no wait.
const BURST: u32 = 256;

/// How long a flood is not looked at once the answers are used up.
const REST: Duration = Duration::from_millis(10);

/// Listeners at most. Each belongs to a process that was started and whatever it left behind; the calls of the
/// oldest are refused by the kernel (ENOSYS) when it has to go.
const MAX_LISTENERS: usize = 256;

/// Answers to give away: so many at once, then so many a second.
#[derive(Debug)]
struct Allowance {
    left: u32,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        let more = since.as_millis().saturating_mul(RATE.into()) / 1_000;
        if let Ok(more @ 1..) = u32::try_from(more.min(BURST.into())) {
            self.left = self.left.saturating_add(more).min(BURST);
            self.at = now;
        }
    }
}

/// The listener of one started process and all that came from it.
#[derive(Debug)]
struct Listener {
    /// The process's name.
    id: String,
    /// The listener, or at first the socket over which it comes.
    fd: OwnedFd,
    is_listening: bool,
    told: BTreeSet<i64>,
}

/// All listeners.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Listener>,
    allowance: Allowance,
    broker: Broker,
}

impl Listeners {
    pub fn new(broker: Broker) -> Self {
        Self { all: Vec::new(), allowance: Allowance::new(Instant::now()), broker }
    }

    /// Expect a listener over this socket (non-blocking), from the process of this name.
    pub fn expect(&mut self, id: String, socket: OwnedFd) {
        if self.all.len() >= MAX_LISTENERS {
            self.all.remove(0);
        }
        self.all.push(Listener { id, fd: socket, is_listening: false, told: BTreeSet::new() });
    }

    /// What to wait for, and no longer than this. While a flood is made to wait its calls wake nobody.
    pub fn wait(&self) -> (impl Iterator<Item = BorrowedFd<'_>>, Option<Timespec>) {
        let rests = self.allowance.left == 0;
        let rest = Timespec { tv_sec: 0, tv_nsec: REST.subsec_nanos().into() };
        let awaited = self.all.iter().filter(move |it| !rests || !it.is_listening);
        (awaited.map(|it| it.fd.as_fd()), rests.then_some(rest))
    }

    /// Answer what is there, as far as the allowance goes, in turns. Gives what was refused for the first time: the
    /// name of the process, and the number of the call.
    pub fn answer(&mut self) -> Vec<(String, i64)> {
        let mut refused = Vec::new();
        self.allowance.refill(Instant::now());
        loop {
            let mut fds: Vec<_> = self.all.iter().map(|it| PollFd::new(&it.fd, PollFlags::IN)).collect();
            let Ok(1..) = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) else { return refused };
            let found: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            let mut answered = false;
            let mut found = found.into_iter();
            let (allowance, broker) = (&mut self.allowance, &self.broker);
            self.all.retain_mut(|listener| {
                let found = found.next().unwrap_or(PollFlags::empty());
                if !listener.is_listening {
                    return found.is_empty() || listener.arrive();
                }
                if found.contains(PollFlags::IN) && allowance.left > 0 {
                    allowance.left -= 1;
                    answered = true;
                    if let Some(number) = listener.refuse(broker)
                        && listener.told.insert(number)
                    {
                        refused.push((listener.id.clone(), number));
                    }
                }
                // Nobody is left who could make a call.
                !found.contains(PollFlags::HUP)
            });
            if !answered {
                return refused;
            }
        }
    }
}

impl Listener {
    /// Answer one call. Gives its number where it was refused.
    fn refuse(&self, broker: &Broker) -> Option<i64> {
        // None: the caller has gone before it was asked about. One that goes later needs no answer.
        let question = sys::next_question(self.fd.as_fd())?;
        let (fd, id) = (self.fd.as_fd(), question.id);
        let errno = match broker.answer(fd, &question) {
            Answer::Done => 0,
            Answer::Refused => libc::EPERM,
            Answer::Lacking(errno) => errno,
            Answer::Socket { socket, closes } => {
                match sys::answer_with_descriptor(fd, id, socket.as_fd(), closes) {
                    Ok(()) => return None,
                    // It has as many descriptors as it may, or it is gone.
                    Err(_) => libc::EMFILE,
                }
            }
        };
        sys::answer_with_error(fd, id, errno);
        (errno == libc::EPERM).then_some(question.call)
    }

    /// Take the listener from the socket. Whether there is one: without, its calls are refused unrecorded, or the
    /// process has failed.
    fn arrive(&mut self) -> bool {
        let Ok(Some(((), mut fds))) = wire::receive::<()>(&self.fd) else { return false };
        let Some(listener) = fds.pop() else { return false };
        self.fd = listener;
        self.is_listening = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allowance_is_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let after = |ms| start + Duration::from_millis(ms);
        allowance.left = 0;
        allowance.refill(start);
        assert_eq!(allowance.left, 0);
        allowance.refill(after(10));
        assert_eq!(allowance.left, 20);
        allowance.refill(after(10));
        assert_eq!(allowance.left, 20, "the same time counts once");
        allowance.refill(after(100_000));
        assert_eq!(allowance.left, BURST);
    }

    #[test]
    fn whoever_ends_before_its_listener_comes_is_forgotten() {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let mut listeners = Listeners::new(Broker::none());
        listeners.expect("a".into(), ours);
        assert_eq!(listeners.answer(), []);
        assert_eq!(listeners.wait().0.count(), 1);
        drop(theirs);
        assert_eq!(listeners.answer(), []);
        assert_eq!(listeners.wait().0.count(), 0);
    }
}
