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
