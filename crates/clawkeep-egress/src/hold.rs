use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clawkeep_policy::{Grant, Handling, Matcher, Permit, RequestPath, Target};
use tokio::sync::watch;

use crate::connection::Client;
use crate::event::{Action, End, Event, Reason, printable};
use crate::gate::{Ends, Passage, connect};
use crate::meter::Meter;
use crate::proxy::Shared;
use crate::refusal::{Refusal, Subject};

/// What an open connection was granted, and what is under way on it, so that a new policy can be put to it.
pub(crate) struct Hold {
    pub(crate) target: Target,
    pub(crate) handling: Handling,
    ends: Ends,
    caller: Option<String>,
    addresses: Vec<IpAddr>,
    address: Option<IpAddr>,
    since: Instant,
    /// What had moved on the client's connection, each way.
    before: (u64, u64),
    state: Mutex<State>,
}

struct State {
    grant: Grant,
    under_way: HashMap<u64, Asked>,
    next: u64,
}

/// A request, as the policy sees it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: RequestPath,
    pub(crate) upgrade: bool,
}

/// A request that is under way until this is dropped.
pub(crate) struct UnderWay {
    hold: Arc<Hold>,
    id: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.hold.state().under_way.remove(&self.id);
    }
}

impl Hold {
    /// Take over what was granted; the connection to the origin is given back.
    pub(crate) fn new(passage: Passage, client: &Client) -> (Arc<Self>, tokio::net::TcpStream) {
        let Passage { target, caller, grant, addresses, origin } = passage;
        let address = origin.peer_addr().ok().map(|address| address.ip());
        let (handling, since) = (grant.handling(), Instant::now());
        let state = Mutex::new(State { grant, under_way: HashMap::new(), next: 0 });
        let (ends, before) = (client.ends, (client.meter.sent(), client.meter.received()));
        (Arc::new(Self { target, handling, ends, caller, addresses, address, since, before, state }), origin)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decide about one request.
    pub(crate) fn request(self: &Arc<Self>, asked: &Asked) -> Result<(Permit, UnderWay), Refusal> {
        let mut state = self.state();
        let permit =
            state.grant.request(&asked.method, &asked.path, asked.upgrade).map_err(Refusal::Policy)?;
        let id = state.next;
        state.next += 1;
        state.under_way.insert(id, asked.clone());
        Ok((permit, UnderWay { hold: self.clone(), id }))
    }

    /// Put a new policy to the connection, its addresses and every request under way.
    pub(crate) fn renew(&self, matcher: &Matcher, shared: &Shared) -> Result<(), Refusal> {
        let asked_now = || shared.caller(matcher, &self.target, self.ends);
        let caller = self.caller.clone().or_else(asked_now);
        let grant = connect(matcher, &self.target, caller.as_deref())?;
        if grant.handling() != self.handling {
            return Err(Refusal::Revoked);
        }
        grant.addresses(&self.addresses).map_err(Refusal::Policy)?;
        let mut state = self.state();
        for asked in state.under_way.values() {
            grant.request(&asked.method, &asked.path, asked.upgrade).map_err(Refusal::Policy)?;
        }
        state.grant = grant;
        Ok(())
    }

    /// Wait until a new policy refuses the connection.
    pub(crate) async fn revoked(&self, mut policy: watch::Receiver<Matcher>, shared: &Shared) -> Refusal {
        loop {
            if policy.changed().await.is_err() {
                // Nobody is left who could replace it.
                std::future::pending::<()>().await;
            }
            let matcher = policy.borrow_and_update().clone();
            if let Err(refusal) = self.renew(&matcher, shared) {
                return refusal;
            }
        }
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject { host: self.target.host().to_owned(), port: self.target.port(), ..Subject::default() }
    }

    /// What is known about the connection, for its record.
    pub(crate) fn event(&self, action: Action, reason: Reason) -> Event {
        Event {
            rule: Some(self.state().grant.rule().to_string()),
            caller: self.caller.as_ref().map(|caller| printable(caller.as_bytes())),
            address: self.address,
            ..Event::about(self.target.host(), self.target.port(), action, reason)
        }
    }

    /// The record of its end.
    pub(crate) fn ended(&self, meter: &Meter) -> Event {
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (sent, received) = (meter.sent() - self.before.0, meter.received() - self.before.1);
        let end = End { sent, received, millis };
        Event { end: Some(end), ..self.event(Action::End, Reason::Rule) }
    }
}
