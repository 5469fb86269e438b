use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How much of a probe's answer is read, in bytes. What comes after is not looked at.
pub const MAX_PROBE_BODY: usize = 64 * 1024;

/// What an answer says about the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeVerdict {
    /// As it must be.
    Live,
    /// The agent answers that it is not there yet, or not at the moment.
    NotYet,
    /// Whoever answers there is not the agent, or not that endpoint.
    Wrong,
}

/// What an HTTP probe takes for a good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// OpenClaw's `/healthz`: see [`classify_healthz`].
    OpenClawLive,
    /// OpenClaw's `/readyz`: see [`classify_readyz`].
    OpenClawReady,
    /// Any agent: status 200 to 399, or 401 (it asks who we are, so it is there).
    AnyAnswer,
}

/// One question to the agent, asked on the sandbox's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// `GET` this path.
    Http {
        /// With its leading slash.
        path: String,
        /// What counts.
        expect: Expect,
    },
    /// A connection that is accepted.
    Tcp,
}

/// How an agent's health is seen. Data for the supervisor, which does the asking.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthSpec {
    /// The port on the sandbox's loopback (127.0.0.1).
    pub port: u16,
    /// Is it alive? Asked for as long as it runs.
    pub live: Probe,
    /// Is it ready? Asked until it is.
    pub ready: Probe,
    /// How long it may take from its start to its first readiness, in seconds; before that, deafness is no
    /// hang.
    pub warm_up_secs: u64,
    /// From one probe of a ready agent to the next, in milliseconds. A hang is found within two of these.
    #[serde(default = "period_ms")]
    pub period_ms: u64,
    /// How long an answer may take, in milliseconds; less than the period.
    #[serde(default = "patience_ms")]
    pub patience_ms: u64,
    /// What shows, beyond an answer over HTTP, that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// The hello of a WebSocket (RFC 6455): a connection is upgraded, and its first message is a JSON object whose
/// `event` has this name. It says nothing about what lies behind the agent, as its model's provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Canary {
    /// With its leading slash.
    pub path: String,
    /// The event's name.
    pub event: String,
    /// From one to the next, in milliseconds.
    pub every_ms: u64,
}

/// The period where none is said, in milliseconds.
fn period_ms() -> u64 {
    10_000
}

fn patience_ms() -> u64 {
    patience_in(period_ms())
}

/// The patience that goes with a period: what is left is for the look at the one that did not answer.
fn patience_in(period_ms: u64) -> u64 {
    period_ms * 95 / 100
}

impl HealthSpec {
    /// These questions, at the usual pace and without a canary.
    pub fn new(port: u16, live: Probe, ready: Probe, warm_up_secs: u64) -> Self {
        Self {
            port,
            live,
            ready,
            warm_up_secs,
            period_ms: period_ms(),
            patience_ms: patience_ms(),
            canary: None,
        }
    }

    /// The same at another pace: a probe each period, with the patience that goes with it.
    pub fn every(self, period: Duration) -> Self {
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX / 100);
        Self { period_ms, patience_ms: patience_in(period_ms), ..self }
    }

    /// From one probe to the next.
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }
}

impl Expect {
    /// What an answer with this status and body (cut at [`MAX_PROBE_BODY`]) means.
    pub fn classify(self, status: u16, body: &[u8]) -> ProbeVerdict {
        match self {
            Self::OpenClawLive => classify_healthz(status, body),
            Self::OpenClawReady => classify_readyz(status, body),
            Self::AnyAnswer if (200..400).contains(&status) || status == 401 => ProbeVerdict::Live,
            Self::AnyAnswer => ProbeVerdict::NotYet,
        }
    }
}

/// OpenClaw's `/healthz`: alive is status 200 with `{"ok":true,"status":"live"}`. It answers unknown paths with
/// 200 and a web page, so the status alone says nothing.
pub fn classify_healthz(status: u16, body: &[u8]) -> ProbeVerdict {
    classify(status, body, |json| match (json["ok"].as_bool()?, json["status"].as_str()?) {
        (true, "live") => Some(true),
        _ => Some(false),
    })
}

/// OpenClaw's `/readyz`: ready is status 200 with `{"ready":true}`.
pub fn classify_readyz(status: u16, body: &[u8]) -> ProbeVerdict {
    classify(status, body, |json| json["ready"].as_bool())
}

/// OpenClaw's `/health`: alive is status 200 with `"ok":true`, or 401 (it asks for the device's identity).
pub fn classify_health(status: u16, body: &[u8]) -> ProbeVerdict {
    if status == 401 {
        return ProbeVerdict::Live;
    }
    classify(status, body, |json| json["ok"].as_bool())
}

/// `says`: the endpoint's own yes or no, `None` when the answer is not of its form.
fn classify(status: u16, body: &[u8], says: impl Fn(&Value) -> Option<bool>) -> ProbeVerdict {
    let json = || serde_json::from_slice::<Value>(&body[..body.len().min(MAX_PROBE_BODY)]).ok();
    match (status, json().and_then(|json| says(&json))) {
        (200, Some(true)) => ProbeVerdict::Live,
        (200 | 500..=599, Some(false)) => ProbeVerdict::NotYet,
        // A server that cannot serve yet need not have words for it.
        (500..=599, _) => ProbeVerdict::NotYet,
        _ => ProbeVerdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ProbeVerdict::{Live, NotYet, Wrong};

    #[test]
    fn only_the_agents_own_words_count() {
        let html: &[u8] = b"<!doctype html><html>{\"ok\":true}</html>";
        for (status, body, want) in [
            (200, &br#"{"ok":true,"status":"live"}"#[..], Live),
            (200, br#"{"status":"live","ok":true,"more":1}"#, Live),
            (200, br#"{"ok":true,"status":"starting"}"#, NotYet),
            (503, br#"{"ok":false,"status":"live"}"#, NotYet),
            (503, b"", NotYet),
            (200, html, Wrong),
            (200, b"", Wrong),
            (200, br#"{"ok":true}"#, Wrong),
            (200, br#"{"ok":"true","status":"live"}"#, Wrong),
            (404, br#"{"ok":true,"status":"live"}"#, Wrong),
            (401, br#"{"ok":true,"status":"live"}"#, Wrong),
        ] {
            assert_eq!(classify_healthz(status, body), want, "{status} {}", String::from_utf8_lossy(body));
        }
        assert_eq!(classify_readyz(200, br#"{"ready":true,"failing":[],"uptimeMs":2896}"#), Live);
        assert_eq!(classify_readyz(503, br#"{"ready":false,"failing":["x"]}"#), NotYet);
        assert_eq!(classify_readyz(200, html), Wrong);
        assert_eq!(classify_health(200, br#"{"ok":true,"status":"live"}"#), Live);
        assert_eq!(classify_health(401, b"Unauthorized"), Live);
        assert_eq!(classify_health(200, html), Wrong);
        assert_eq!(Expect::AnyAnswer.classify(204, b""), Live);
        assert_eq!(Expect::AnyAnswer.classify(401, html), Live);
        assert_eq!(Expect::AnyAnswer.classify(503, html), NotYet);
    }

    #[test]
    fn the_pace_is_the_usual_one_unless_it_is_said() {
        let spec = HealthSpec::new(1, Probe::Tcp, Probe::Tcp, 60);
        assert_eq!((spec.period(), spec.patience()), (Duration::from_secs(10), Duration::from_millis(9_500)));
        let stored = serde_json::json!({"port": 1, "live": "tcp", "ready": "tcp", "warm_up_secs": 60});
        assert_eq!(serde_json::from_value::<HealthSpec>(stored).unwrap(), spec);
        let quick = spec.every(Duration::from_secs(2));
        assert_eq!((quick.period_ms, quick.patience_ms), (2_000, 1_900));
    }

    proptest! {
        #[test]
        fn nothing_but_a_200_is_live_and_nothing_panics(status: u16, body: Vec<u8>) {
            for expect in [Expect::OpenClawLive, Expect::OpenClawReady] {
                let verdict = expect.classify(status, &body);
                prop_assert!(verdict != Live || status == 200);
            }
        }

        #[test]
        fn a_cut_answer_is_not_live(cut in 0_usize..27) {
            let verdict = classify_healthz(200, &br#"{"ok":true,"status":"live"}"#[..cut]);
            prop_assert!(verdict == Wrong);
        }
    }
}
