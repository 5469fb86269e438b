//! What a provider, an upstream or an agent says may hold a secret that was sent to them. It is taken out of all that
//! is written down or told: here is what there is to take out, one list for the whole process.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use clawkeep_credentials::{Redactor, Secret};
use clawkeep_egress::Event;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Credentials, Entry, Secrets};
use serde_json::Value as Json;

use crate::api::{Answer, Failure, SandboxStatus, Value};
use crate::server::key_name;

/// The most secrets of programs that are looked for: an agent can have those run again and again. Of more, the first
/// are forgotten.
const MAX_GIVEN: usize = 256;

/// Every secret that this process has had in its hands.
#[derive(Default)]
pub struct Redaction {
    known: Mutex<Known>,
    redactor: RwLock<Arc<Redactor>>,
}

#[derive(Default)]
struct Known {
    /// What the operator stored. Those of before a rotation count: what was sent with them may still be on its way back.
    stored: Vec<Secret>,
    /// What programs gave for a while.
    given: VecDeque<Secret>,
}

impl Known {
    fn has(&self, secret: &Secret) -> bool {
        self.stored.iter().chain(&self.given).any(|have| have.expose() == secret.expose())
    }
}

/// That of this process.
pub fn redaction() -> &'static Redaction {
    static ALL: OnceLock<Redaction> = OnceLock::new();
    ALL.get_or_init(Redaction::default)
}

impl Redaction {
    /// Look for these as well from now on. To be called before they are used.
    pub fn learn(&self, secrets: impl IntoIterator<Item = Secret>) {
        self.add(secrets, |known, secret| known.stored.push(secret));
    }

    /// The same for one that a program gave.
    pub fn learn_given(&self, secret: Secret) {
        self.add([secret], |known, secret| {
            if known.given.len() == MAX_GIVEN {
                known.given.pop_front();
            }
            known.given.push_back(secret);
        });
    }

    fn add(&self, secrets: impl IntoIterator<Item = Secret>, put: impl Fn(&mut Known, Secret)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        for secret in secrets {
            // As it is sent.
            let secret = Secret::new(secret.expose().trim_ascii());
            if !known.has(&secret) {
                put(&mut known, secret);
                is_new = true;
            }
        }
        if is_new {
            let redactor = Arc::new(Redactor::new(known.stored.iter().chain(&known.given)));
            *self.redactor.write().unwrap_or_else(PoisonError::into_inner) = redactor;
        }
    }

    fn redactor(&self) -> Arc<Redactor> {
        self.redactor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The text without secrets.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.redactor().redact(text)
    }

    /// An entry of the journal.
    pub fn entry(&self, entry: &mut Entry) {
        let redactor = self.redactor();
        if redactor.is_empty() {
            return;
        }
        clean(&redactor, &mut entry.cause);
        // A step is made again from its record: its words are the core's, and only its sentences are somebody's.
        json(&redactor, &mut entry.data, entry.kind == "step");
    }

    /// What the proxy decided, and about what.
    pub fn event(&self, event: &mut Event) {
        let redactor = self.redactor();
        let Event { host, rule, method, path, caller, message, .. } = event;
        clean(&redactor, host);
        clean(&redactor, message);
        [rule, method, path, caller].into_iter().flatten().for_each(|text| clean(&redactor, text));
    }

    /// An answer to the command line. What it decides by (names, phases, routes) stays; what is text for a person
    /// is looked into.
    pub fn answer(&self, answer: &mut Answer) {
        let redactor = self.redactor();
        match answer {
            Answer::Failed(why) => failure(&redactor, why),
            Answer::Phase(status) => sandbox(&redactor, status),
            Answer::Done(value) => done(&redactor, value),
            Answer::Session { .. } => {}
        }
    }
}

fn done(redactor: &Redactor, value: &mut Value) {
    match value {
        Value::Text(text) => clean(redactor, text),
        Value::Status(status) => {
            status.daemon.troubles.iter_mut().for_each(|text| clean(redactor, text));
            status.sandboxes.iter_mut().for_each(|status| sandbox(redactor, status));
        }
        Value::Sandbox(status) => sandbox(redactor, status),
        Value::RouteSet { sandbox: status, warning, .. } => {
            sandbox(redactor, status);
            warning.iter_mut().for_each(|why| failure(redactor, why));
        }
        // Written by whoever had the secrets of that time. What is known now was not always known.
        Value::Journal(page) => {
            for event in &mut page.events {
                clean(redactor, &mut event.entry.cause);
                json(redactor, &mut event.entry.data, event.entry.kind == "step");
            }
        }
        // The rest is the operator's own, or was redacted before it was kept.
        _ => {}
    }
}

fn failure(redactor: &Redactor, why: &mut Failure) {
    clean(redactor, &mut why.message);
    why.next.iter_mut().for_each(|next| clean(redactor, next));
}

fn sandbox(redactor: &Redactor, status: &mut SandboxStatus) {
    if redactor.is_empty() {
        return;
    }
    status.held.iter_mut().for_each(|held| clean(redactor, &mut held.reason));
    if let Some(proof) = &mut status.proof {
        [&mut proof.what, &mut proof.next].into_iter().flatten().for_each(|text| clean(redactor, text));
    }
    status.last_incident.iter_mut().for_each(|incident| clean(redactor, &mut incident.what));
}

fn clean(redactor: &Redactor, text: &mut String) {
    if let Cow::Owned(redacted) = redactor.redact(text) {
        *text = redacted;
    }
}

/// Every text in it, or every one of more than one word.
fn json(redactor: &Redactor, value: &mut Json, sentences: bool) {
    match value {
        Json::String(text) if !sentences || text.contains(' ') => clean(redactor, text),
        Json::Array(values) => values.iter_mut().for_each(|value| json(redactor, value, sentences)),
        Json::Object(fields) => fields.values_mut().for_each(|value| json(redactor, value, sentences)),
        _ => {}
    }
}

/// All secrets that are stored of these sandboxes and for all, and how many more cannot be read.
pub fn stored(secrets: &Secrets, sandboxes: &[SandboxName]) -> (Vec<Secret>, usize) {
    let credentials = Credentials::new(secrets);
    let mut unreadable = 0;
    let mut all = Vec::new();
    for name in credentials.names().unwrap_or_default() {
        match credentials.get(&name) {
            Ok(found) => all.extend(found.and_then(|(_, value)| value)),
            Err(_) => unreadable += 1,
        }
    }
    for name in sandboxes {
        for index in 0..=clawkeep_inference::MAX_FALLBACKS {
            match secrets.get(name, &key_name(index)) {
                Ok(key) => all.extend(key),
                Err(_) => unreadable += 1,
            }
        }
    }
    (all, unreadable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "hunter2\"hunter2";

    fn redaction() -> Redaction {
        let redaction = Redaction::default();
        redaction.learn([Secret::new(SECRET), Secret::new("openclaw")]);
        redaction
    }

    #[test]
    fn every_text_of_an_entry_is_looked_into_and_what_a_replay_needs_stays() {
        let mut entry = Entry {
            at_ms: 1,
            sandbox: None,
            kind: "denied".into(),
            cause: format!("it said {SECRET}"),
            data: json!({ "a": [{ "b": format!("x%68unter2%22hunter2") }, 7], "c": "openclaw" }),
        };
        redaction().entry(&mut entry);
        assert_eq!(entry.cause, "it said [redacted]");
        assert_eq!(entry.data, json!({ "a": [{ "b": "x[redacted]" }, 7], "c": "[redacted]" }));
        entry.kind = "step".into();
        entry.data = json!({ "phase": "openclaw", "reason": format!("because of {SECRET}") });
        redaction().entry(&mut entry);
        assert_eq!(entry.data, json!({ "phase": "openclaw", "reason": "because of [redacted]" }));
    }

    #[test]
    fn what_a_person_is_told_is_clean() {
        let why = Failure::new("c", format!("no {SECRET}"), format!("not {SECRET}"));
        let mut answer = Answer::Failed(why);
        redaction().answer(&mut answer);
        let mut text = Answer::Done(Value::Text(SECRET.into()));
        redaction().answer(&mut text);
        let told = format!("{answer:?} {text:?}");
        assert!(!told.contains("hunter2") && told.matches("[redacted]").count() == 3, "{told}");
    }

    #[test]
    fn what_was_stored_is_never_forgotten_whatever_programs_give() {
        let redaction = Redaction::default();
        redaction.learn(["stored-one", "stored-two"].map(Secret::new));
        for number in 0..MAX_GIVEN + 1 {
            redaction.learn_given(Secret::new(format!("secret-{number:04}")));
        }
        redaction.learn_given(Secret::new("stored-one"));
        assert_eq!(redaction.text("secret-0000"), "secret-0000");
        assert_eq!(redaction.text("secret-0001 secret-0256"), "[redacted] [redacted]");
        assert_eq!(redaction.text("stored-one stored-two"), "[redacted] [redacted]");
    }
}
