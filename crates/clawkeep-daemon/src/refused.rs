//! What the proxy refused a sandbox lately: for `policy requests`, and as evidence, should its agent end over it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clawkeep_egress::Event;
use clawkeep_plan::Digest;
use clawkeep_policy::{Caller, Reason, RequestPath, Target};
use serde::{Deserialize, Serialize};

use crate::api::policy::RefusedRequest;
use crate::status::rfc3339;

/// An agent can ask for as much as it likes; the newest are remembered.
const MOST: usize = 256;

/// A request, as far as it was known when it was refused. Canonical and bounded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub host: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upgrade: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    pub reason: String,
}

impl Asked {
    /// What a decision of the proxy is about.
    pub fn of(event: &Event) -> Self {
        let reason = serde_json::to_value(event.reason).ok();
        Self {
            host: event.host.clone(),
            port: event.port,
            method: event.method.clone(),
            path: event.path.clone(),
            upgrade: event.reason == clawkeep_egress::Reason::Policy(Reason::Upgrade),
            caller: event.caller.clone(),
            reason: reason.as_ref().and_then(|reason| reason.as_str()).unwrap_or_default().to_owned(),
        }
    }

    /// The same for the same request, over restarts too.
    pub fn id(&self) -> String {
        let Self { host, port, method, path, upgrade, caller, reason: _ } = self;
        let what = serde_json::to_vec(&(host, port, method, path, upgrade, caller)).unwrap_or_default();
        Digest::of(&what).short()
    }

    fn is_like(&self, other: &Self) -> bool {
        let what = |asked: &Self| Self { reason: String::new(), ..asked.clone() };
        self.port == other.port && self.host == other.host && what(self) == what(other)
    }

    /// `GET host:443/path`, or `host:443`.
    pub fn what(&self) -> String {
        let Self { host, port, method, path, .. } = self;
        match (method, path) {
            (Some(method), Some(path)) => format!("{method} {host}:{port}{path}"),
            // A name that was looked up.
            _ if *port == 0 => format!("the name {host}"),
            _ => format!("{host}:{port}"),
        }
    }

    /// As the policy sees it; `None` for what no policy decides about.
    pub fn with<T>(&self, use_it: impl FnOnce(&clawkeep_policy::Refused<'_>) -> T) -> Option<T> {
        let reason: Reason = serde_json::from_value(self.reason.clone().into()).ok()?;
        let target = Target::parse(format!("{}:{}", self.host, self.port).as_bytes(), None).ok()?;
        // What was told of a long path is its beginning, and that is another path.
        let path = self.path.as_deref().filter(|path| path.len() < clawkeep_egress::MAX_TEXT);
        if self.path.is_some() != path.is_some() {
            return None;
        }
        let path = path.map(RequestPath::parse).transpose().ok()?;
        let request = self.method.as_deref().zip(path.as_ref());
        let request = request.map(|(method, path)| clawkeep_policy::RefusedRequest {
            method,
            path,
            upgrade: self.upgrade,
        });
        let caller = self.caller.as_deref().map_or(Caller::Unknown, Caller::Executable);
        Some(use_it(&clawkeep_policy::Refused { target: &target, caller, request, reason }))
    }
}

#[derive(Debug, Clone)]
struct Known {
    asked: Asked,
    message: String,
    times: u64,
    first_ms: u64,
    last_ms: u64,
}

/// The requests that were refused last, each once, the newest last.
#[derive(Debug, Default)]
pub struct Refused(Mutex<VecDeque<Known>>);

impl Refused {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one was refused at this time (Unix, in milliseconds). Whether that is news.
    pub fn note(&self, asked: Asked, message: String, now_ms: u64) -> bool {
        let mut all = self.lock();
        let place = all.iter().position(|known| known.asked.is_like(&asked));
        let known = place.and_then(|place| all.remove(place));
        let news = known.is_none();
        if all.len() == MOST {
            all.pop_front();
        }
        let (times, first_ms) = known.map_or((0, now_ms), |known| (known.times, known.first_ms));
        all.push_back(Known { asked, message, times: times + 1, first_ms, last_ms: now_ms });
        news
    }

    /// What an earlier daemon wrote down, oldest first.
    pub fn recall<'a>(&self, entries: impl Iterator<Item = &'a clawkeep_store::Entry>) {
        for entry in entries.filter(|entry| entry.kind == "denied") {
            if let Ok(asked) = serde_json::from_value(entry.data["asked"].clone()) {
                self.note(asked, entry.cause.clone(), entry.at_ms);
            }
        }
    }

    /// The one of this name.
    pub fn find(&self, id: &str) -> Option<Asked> {
        self.lock().iter().find(|known| known.asked.id() == id).map(|known| known.asked.clone())
    }

    /// Forget those that are allowed by now.
    pub fn forget(&self, allowed: impl Fn(&Asked) -> bool) {
        self.lock().retain(|known| !allowed(&known.asked));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All of them.
    pub fn list(&self) -> Vec<RefusedRequest> {
        let tell = |Known { asked, message, times, first_ms, last_ms }: &Known| RefusedRequest {
            id: asked.id(),
            host: asked.host.clone(),
            port: asked.port,
            method: asked.method.clone(),
            path: asked.path.clone(),
            caller: asked.caller.clone(),
            reason: asked.reason.clone(),
            message: message.clone(),
            times: *times,
            first_at: rfc3339(*first_ms),
            last_at: rfc3339(*last_ms),
        };
        self.lock().iter().map(tell).collect()
    }

    /// The hosts of this last while, each once, the newest last.
    pub fn hosts(&self, within: Duration, now_ms: u64) -> Vec<String> {
        let since = now_ms.saturating_sub(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let mut hosts: Vec<String> = Vec::new();
        for known in self.lock().iter().filter(|known| known.last_ms >= since) {
            hosts.retain(|host| *host != known.asked.host);
            hosts.push(known.asked.host.clone());
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str) -> Asked {
        Asked {
            host: host.to_owned(),
            port: 443,
            method: None,
            path: None,
            upgrade: false,
            caller: None,
            reason: "host".to_owned(),
        }
    }

    #[test]
    fn the_newest_are_kept_each_once_and_the_old_are_no_evidence() {
        let refused = Refused::default();
        for number in 0..MOST + 3 {
            assert!(refused.note(asked(&format!("host-{number}")), String::new(), 1_000 + number as u64));
        }
        assert!(!refused.note(asked("host-10"), String::new(), 5_000));
        let list = refused.list();
        assert_eq!((list.len(), refused.count()), (MOST, MOST));
        assert_eq!((list[0].host.as_str(), list[MOST - 1].host.as_str()), ("host-3", "host-10"));
        assert_eq!((list[MOST - 1].times, list[MOST - 1].last_at.as_str()), (2, "1970-01-01T00:00:05.000Z"));
        assert_eq!(refused.hosts(Duration::from_secs(1), 5_500), ["host-10"]);
        assert_eq!(refused.hosts(Duration::ZERO, 9_000), Vec::<String>::new());
    }

    #[test]
    fn a_request_has_one_name_that_its_reason_does_not_change() {
        let one = asked("a.example");
        let names = |asked: Asked| asked.id();
        assert_eq!(one.id(), names(Asked { reason: "port".into(), ..one.clone() }));
        for other in [
            Asked { port: 80, ..one.clone() },
            Asked { method: Some("GET".into()), path: Some("/".into()), ..one.clone() },
            Asked { caller: Some("/usr/bin/node".into()), ..one.clone() },
            Asked { upgrade: true, ..one.clone() },
            asked("b.example"),
        ] {
            assert_ne!(one.id(), other.id(), "{other:?}");
        }
    }

    #[test]
    fn what_an_earlier_daemon_wrote_down_is_known_and_what_is_allowed_by_now_is_not() {
        let refused = Refused::default();
        let entry = |data| clawkeep_store::Entry {
            at_ms: 7,
            sandbox: None,
            kind: "denied".into(),
            cause: "no rule".into(),
            data,
        };
        let entries = [
            entry(serde_json::json!({ "asked": asked("a.example") })),
            entry(serde_json::json!({ "call": "ptrace" })),
            entry(serde_json::json!({ "asked": asked("b.example") })),
        ];
        refused.recall(entries.iter());
        assert_eq!(
            refused.list().iter().map(|r| r.host.as_str()).collect::<Vec<_>>(),
            ["a.example", "b.example"]
        );
        assert_eq!(refused.find(&asked("b.example").id()), Some(asked("b.example")));
        refused.forget(|asked| asked.host == "b.example");
        assert_eq!(refused.find(&asked("b.example").id()), None);
    }

    #[test]
    fn the_policy_is_asked_about_what_it_decides_and_nothing_else() {
        assert_eq!(
            asked("a.example").with(|refused| refused.target.to_string()).as_deref(),
            Some("a.example:443")
        );
        assert!(Asked { reason: "protocol".into(), ..asked("a.example") }.with(|_| ()).is_none());
        for path in ["/../x".to_owned(), "/x".repeat(128)] {
            assert!(Asked { path: Some(path), ..asked("a.example") }.with(|_| ()).is_none());
        }
    }
}
