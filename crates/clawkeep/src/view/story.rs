//! The story of a sandbox, as `why` tells it. What records say is cleaned: all of it, here.

use std::time::{Duration, UNIX_EPOCH};

use clawkeep_plan::SandboxName;
use clawkeep_recovery::story::{Attempt, AttemptResult, Incident, Outcome, Present, Story};
use clawkeep_recovery::{Confidence, Phase, Rung};
use serde_json::{Value, json};

use crate::output::one_line;

/// Lines of one incident that are shown to a person, of what happened and what was tried.
const LINES: usize = 16;

/// Records that do not add up are shown up to this number; JSON has them all.
const MISMATCHES: usize = 5;

/// A story, ready to be shown.
pub struct Told<'a> {
    /// Whose.
    pub name: &'a SandboxName,
    /// All of it.
    pub story: &'a Story,
    /// How many of the last incidents to show.
    pub last: usize,
    /// Whether a daemon runs.
    pub supervised: bool,
    /// Whether all of the journal could be read.
    pub complete: bool,
}

/// A Unix time in milliseconds, as RFC 3339 in UTC.
pub fn rfc3339(unix_ms: u64) -> String {
    // What is beyond the year 9999 has no such form: a record with a broken clock.
    let longest = Duration::from_secs(253_402_300_799);
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms).min(longest);
    humantime::format_rfc3339_millis(time).to_string()
}

/// The same for a person: `2026-11-25 05:41:25.123`.
pub fn clock(unix_ms: u64) -> String {
    rfc3339(unix_ms).replace('T', " ").trim_end_matches('Z').to_owned()
}

/// `0.4 s`, `2 min 5 s`, `3 h 12 min`, `2 d 3 h`.
pub fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{:.1} s", ms as f64 / 1000.0),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

/// What a rung of the ladder does.
fn repair(rung: Rung) -> &'static str {
    match rung {
        Rung::Respawn => "starting it again",
        Rung::Clear => "clearing what earlier runs left",
        Rung::Renew => "making the sandbox anew",
        Rung::Config => "putting its last healthy configuration back",
        Rung::Agent => "repairing the agent's files",
        Rung::Safe => "starting it in safe mode",
    }
}

fn sure(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "certain",
        Confidence::Likely => "likely",
        Confidence::Weak => "a guess",
    }
}

impl Told<'_> {
    fn incidents(&self) -> &[Incident] {
        let all = &self.story.incidents;
        &all[all.len().saturating_sub(self.last)..]
    }

    /// For a person.
    pub fn text(&self) -> String {
        let (name, all) = (self.name, self.story.incidents.len());
        let mut text = match (all, self.incidents().len()) {
            (0, _) => format!("{name}: nothing has gone wrong, as far back as its journal goes\n"),
            (1, 1) => format!("{name}: 1 incident, in UTC\n"),
            (all, shown) if shown == all => format!("{name}: {all} incidents, in UTC\n"),
            (all, shown) => format!("{name}: the last {shown} of {all} incidents, in UTC\n"),
        };
        for incident in self.incidents() {
            text += &self.incident(incident);
        }
        for (index, wrong) in self.story.mismatches.iter().take(MISMATCHES).enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            text += &format!("{gap}record {} does not add up: {}\n", wrong.seq, one_line(&wrong.what));
        }
        if let Some(more @ 1..) = self.story.mismatches.len().checked_sub(MISMATCHES) {
            text += &format!("and {more} more\n");
        }
        if !self.complete {
            text += "\nThe disk cannot be written, so a part of what was recorded cannot be read.\n";
        }
        text + &self.now()
    }

    fn incident(&self, incident: &Incident) -> String {
        let mut text = format!("\n{}  ", clock(incident.began_at));
        match &incident.diagnosis {
            Some(found) => {
                let remedy = found.cause.remedy();
                text += &format!(
                    "{} [{}, {}]\n",
                    found.cause.summary(),
                    found.cause.code(),
                    sure(found.confidence)
                );
                let shown = found.evidence.iter().take(4).map(|line| one_line(line)).collect::<Vec<_>>();
                text += &format!("  evidence: {}\n", shown.join(" | "));
                if incident.outcome == Outcome::Open {
                    text += &format!("  {}\n", remedy.automatic);
                    let command = remedy.command.unwrap_or_default().replace("NAME", self.name.as_str());
                    text += &format!("  look: {command}\n");
                }
            }
            None => {
                let first = incident.happened.first().map(|happened| one_line(&happened.what));
                text += &format!("{}\n", first.unwrap_or_else(|| "It did not serve.".to_owned()));
            }
        }
        text += &lines_of(incident);
        let lasted = span(incident.lasted_ms);
        text + &match incident.outcome {
            Outcome::Cured { rung, settled, .. } => {
                let yet = if settled { "" } else { ", and has yet to last" };
                format!("  cured by {} after {lasted}{yet}\n", repair(rung))
            }
            Outcome::Stopped { .. } => format!("  told to stop after {lasted}\n"),
            Outcome::Open => format!("  not over: {lasted} so far\n"),
        }
    }

    fn now(&self) -> String {
        let Some(present) = &self.story.present else {
            return "\nnow: nothing was decided about it yet\n".to_owned();
        };
        let since = clock(present.at_ms);
        if !self.supervised {
            return format!(
                "\nnow: {} when last heard of, at {since}; no daemon runs\n  next: clawkeep {} status\n",
                phase(present),
                self.name
            );
        }
        let next = match (&present.state.phase, present.next_at) {
            (Phase::Held { command, .. }, _) => one_line(command),
            (Phase::Stopped, _) => format!("clawkeep {} start", self.name),
            (Phase::Ready { .. }, _) => "nothing to do".to_owned(),
            (Phase::Backoff { .. }, Some(at)) => format!("the next start is due at {}", clock(at)),
            _ => "it is under way, nothing to do".to_owned(),
        };
        let (why, again) = match (&present.state.phase, present.next_at) {
            (Phase::Held { reason, .. }, at) => (
                format!(" ({})", one_line(reason)),
                at.map(|at| format!(", or by itself at {}", clock(at))).unwrap_or_default(),
            ),
            _ => (String::new(), String::new()),
        };
        let safe = match &present.state.phase {
            Phase::Ready { .. } if present.state.safe => " in safe mode",
            _ => "",
        };
        format!("\nnow: {}{safe}{why} since {since}\n  next: {next}{again}\n", phase(present))
    }

    /// `why --json`, schema 1.
    pub fn json(&self) -> Value {
        let story = self.story;
        json!({
            "schema": 1,
            "sandbox": self.name,
            "incidents_in_all": story.incidents.len(),
            "incidents": self.incidents().iter().map(incident_json).collect::<Vec<_>>(),
            "replay": {
                "steps": story.replayed,
                "of_other_versions": story.of_other_versions,
                "complete": self.complete,
                "mismatches": story.mismatches,
            },
            "now": story.present.as_ref().map(|present| json!({
                "phase": phase(present),
                "safe_mode": present.state.safe,
                "should_run": present.state.wanted,
                "since": rfc3339(present.at_ms),
                "rung": present.state.ladder.rung,
                "next_at": present.next_at.map(rfc3339),
                "supervised": self.supervised,
            })),
        })
    }
}

/// What happened and what was tried, in its order; in the middle something is left out when there is much.
fn lines_of(incident: &Incident) -> String {
    let happened = incident.happened.iter().map(|happened| {
        let what = match happened.kind.as_str() {
            "wish" => format!("asked to {}", one_line(&happened.what)),
            _ => one_line(&happened.what),
        };
        (happened.at_ms, what)
    });
    let tried = incident.tried.iter().map(|attempt| (attempt.at_ms, attempt_line(attempt)));
    let mut lines: Vec<(u64, String)> = happened.chain(tried).collect();
    lines.sort_by_key(|(at, _)| *at);
    let left_out = (lines.len() + incident.left_out as usize).saturating_sub(LINES);
    let mut text = String::new();
    for (at, (at_ms, line)) in lines.iter().enumerate() {
        if left_out == 0 || at < LINES / 2 || at >= lines.len() - LINES / 2 {
            let (day, now) = (clock(incident.began_at), clock(*at_ms));
            // The day is told once.
            let now = if now[..11] == day[..11] { &now[11..] } else { &now };
            text += &format!("  {now}  {line}\n");
        } else if at == LINES / 2 {
            text += &format!("  ({left_out} more)\n");
        }
    }
    text
}

fn attempt_line(attempt: &Attempt) -> String {
    let waited = match attempt.waited_ms {
        0 => String::new(),
        ms => format!("after a wait of {}, ", span(ms)),
    };
    let launch = attempt.launch.map(|launch| format!(" (launch {launch})")).unwrap_or_default();
    let result = match attempt.result {
        AttemptResult::Ready => "it served",
        AttemptResult::Failed => "it failed",
        AttemptResult::Open => "under way",
    };
    format!("{waited}{}{launch}: {result}", repair(attempt.rung))
}

fn incident_json(incident: &Incident) -> Value {
    let cause = incident.diagnosis.as_ref().map(|found| {
        json!({
            "code": found.cause.code(),
            "summary": found.cause.summary(),
            "confidence": found.confidence,
            "blame": found.blame,
            "evidence": found.evidence,
            "remedy": found.cause.remedy().automatic,
        })
    });
    let (ended, cure) = match incident.outcome {
        Outcome::Cured { rung, launch, at_ms, settled } => {
            (Some(at_ms), Some(json!({"rung": rung, "launch": launch, "settled": settled})))
        }
        Outcome::Stopped { at_ms } => (Some(at_ms), None),
        Outcome::Open => (None, None),
    };
    let outcome = match incident.outcome {
        Outcome::Cured { .. } => "cured",
        Outcome::Stopped { .. } => "stopped",
        Outcome::Open => "open",
    };
    json!({
        "seq": incident.seq,
        "began_at": rfc3339(incident.began_at),
        "ended_at": ended.map(rfc3339),
        "lasted_ms": incident.lasted_ms,
        "outcome": outcome,
        "cause": cause,
        "happened": incident.happened.iter().map(|happened| json!({
            "seq": happened.seq, "at": rfc3339(happened.at_ms), "kind": happened.kind, "what": happened.what,
        })).collect::<Vec<_>>(),
        "tried": incident.tried.iter().map(|attempt| json!({
            "at": rfc3339(attempt.at_ms), "rung": attempt.rung, "waited_ms": attempt.waited_ms,
            "launch": attempt.launch, "result": attempt.result,
        })).collect::<Vec<_>>(),
        "left_out": incident.left_out,
        "cure": cure,
    })
}

/// The word for a phase, as `status` has it.
fn phase(present: &Present) -> &'static str {
    present.state.phase.word(present.state.wanted)
}

#[cfg(test)]
mod tests {
    use clawkeep_recovery::story::{Happened, Mismatch, MismatchKind};
    use clawkeep_recovery::{Blame, Cause, Diagnosis, State};

    use super::*;

    const AT: u64 = 1_764_049_285_000;

    fn attempt(after: u64, rung: Rung, waited_ms: u64, result: AttemptResult) -> Attempt {
        Attempt { at_ms: AT + after, rung, waited_ms, launch: Some(after), result }
    }

    fn happened(after: u64, kind: &str, what: &str) -> Happened {
        Happened { seq: after, at_ms: AT + after, kind: kind.into(), what: what.into() }
    }

    fn cured() -> Incident {
        Incident {
            seq: 12,
            began_at: AT,
            happened: vec![happened(0, "ended", "the gateway ended with signal 9")],
            diagnosis: Some(Diagnosis {
                cause: Cause::Killed,
                confidence: Confidence::Likely,
                blame: Blame::Unknown,
                evidence: vec!["signal 9".into()],
            }),
            tried: vec![attempt(3, Rung::Respawn, 0, AttemptResult::Ready)],
            left_out: 0,
            outcome: Outcome::Cured { rung: Rung::Respawn, launch: 3, at_ms: AT + 900, settled: false },
            lasted_ms: 900,
        }
    }

    fn open() -> Incident {
        Incident {
            seq: 40,
            began_at: AT + 60_000,
            happened: vec![
                happened(60_000, "ended", "the gateway ended with exit status 78"),
                happened(61_000, "wish", "recover"),
                happened(62_000, "ended", "drawn\u{1b}[2J\nover\u{202e}"),
            ],
            diagnosis: None,
            tried: vec![
                attempt(60_010, Rung::Respawn, 0, AttemptResult::Failed),
                attempt(92_000, Rung::Config, 30_000, AttemptResult::Open),
            ],
            left_out: 0,
            outcome: Outcome::Open,
            lasted_ms: 125_000,
        }
    }

    fn story(incidents: Vec<Incident>, phase: Phase) -> Story {
        let present = Present {
            state: State { phase, ..State::new(1) },
            at_ms: AT + 200_000,
            next_at: Some(AT + 260_000),
        };
        Story { replayed: 30, incidents, present: Some(present), ..Story::default() }
    }

    fn told<'a>(name: &'a SandboxName, story: &'a Story) -> Told<'a> {
        Told { name, story, last: 3, supervised: true, complete: true }
    }

    #[test]
    fn stories_as_people_see_them() {
        let name = "box".parse().unwrap();
        let well = story(vec![cured()], Phase::Ready { launch: 3, since: 0, missed: 0 });
        insta::assert_snapshot!(told(&name, &well).text(), @r#"
        box: 1 incident, in UTC

        2025-11-25 05:41:25.000  A signal from outside ended the agent. [killed, likely]
          evidence: signal 9
          05:41:25.000  the gateway ended with signal 9
          05:41:25.003  starting it again (launch 3): it served
          cured by starting it again after 0.9 s, and has yet to last

        now: ready since 2025-11-25 05:44:45.000
          next: nothing to do
        "#);
        let mut waits = story(vec![cured(), open()], Phase::Backoff { until: 0 });
        insta::assert_snapshot!(Told { last: 1, ..told(&name, &waits) }.text(), @r#"
        box: the last 1 of 2 incidents, in UTC

        2025-11-25 05:42:25.000  the gateway ended with exit status 78
          05:42:25.000  the gateway ended with exit status 78
          05:42:25.010  starting it again (launch 60010): it failed
          05:42:26.000  asked to recover
          05:42:27.000  drawn over
          05:42:57.000  after a wait of 30.0 s, putting its last healthy configuration back (launch 92000): under way
          not over: 2 min 5 s so far

        now: backoff since 2025-11-25 05:44:45.000
          next: the next start is due at 2025-11-25 05:45:45.000
        "#);
        waits.incidents.clear();
        waits.mismatches.push(Mismatch { seq: 9, kind: MismatchKind::Decision, what: "a\u{7}\nb".into() });
        let dead = Told { supervised: false, complete: false, ..told(&name, &waits) };
        insta::assert_snapshot!(dead.text(), @r#"
        box: nothing has gone wrong, as far back as its journal goes

        record 9 does not add up: a b

        The disk cannot be written, so a part of what was recorded cannot be read.

        now: backoff when last heard of, at 2025-11-25 05:44:45.000; no daemon runs
          next: clawkeep box status
        "#);
        let reason = "5 starts failed, and no repair has helped".to_owned();
        let held = Phase::Held { reason, command: "clawkeep box recover".into(), retry_at: Some(9) };
        let mut sure = open();
        sure.diagnosis = cured().diagnosis.map(|known| Diagnosis { cause: Cause::OutOfDisk, ..known });
        let held = story(vec![sure], held);
        insta::assert_snapshot!(told(&name, &held).text(), @r#"
        box: 1 incident, in UTC

        2025-11-25 05:42:25.000  The disk is full. [out-of-disk, likely]
          evidence: signal 9
          It is started again after a wait, until there is room.
          look: df -h
          05:42:25.000  the gateway ended with exit status 78
          05:42:25.010  starting it again (launch 60010): it failed
          05:42:26.000  asked to recover
          05:42:27.000  drawn over
          05:42:57.000  after a wait of 30.0 s, putting its last healthy configuration back (launch 92000): under way
          not over: 2 min 5 s so far

        now: held (5 starts failed, and no repair has helped) since 2025-11-25 05:44:45.000
          next: clawkeep box recover, or by itself at 2025-11-25 05:45:45.000
        "#);
        insta::assert_snapshot!(told(&name, &Story::default()).text(), @r#"
        box: nothing has gone wrong, as far back as its journal goes

        now: nothing was decided about it yet
        "#);
    }

    #[test]
    fn the_schema_of_the_story() {
        let name = "box".parse().unwrap();
        let story = story(vec![cured()], Phase::Ready { launch: 3, since: 0, missed: 0 });
        let text = serde_json::to_string_pretty(&told(&name, &story).json()).unwrap();
        insta::assert_snapshot!(text, @r#"
        {
          "incidents": [
            {
              "began_at": "2025-11-25T05:41:25.000Z",
              "cause": {
                "blame": "unknown",
                "code": "killed",
                "confidence": "likely",
                "evidence": [
                  "signal 9"
                ],
                "remedy": "It is started again.",
                "summary": "A signal from outside ended the agent."
              },
              "cure": {
                "launch": 3,
                "rung": "respawn",
                "settled": false
              },
              "ended_at": "2025-11-25T05:41:25.900Z",
              "happened": [
                {
                  "at": "2025-11-25T05:41:25.000Z",
                  "kind": "ended",
                  "seq": 0,
                  "what": "the gateway ended with signal 9"
                }
              ],
              "lasted_ms": 900,
              "left_out": 0,
              "outcome": "cured",
              "seq": 12,
              "tried": [
                {
                  "at": "2025-11-25T05:41:25.003Z",
                  "launch": 3,
                  "result": "ready",
                  "rung": "respawn",
                  "waited_ms": 0
                }
              ]
            }
          ],
          "incidents_in_all": 1,
          "now": {
            "next_at": "2025-11-25T05:45:45.000Z",
            "phase": "ready",
            "rung": "respawn",
            "safe_mode": false,
            "should_run": false,
            "since": "2025-11-25T05:44:45.000Z",
            "supervised": true
          },
          "replay": {
            "complete": true,
            "mismatches": [],
            "of_other_versions": 0,
            "steps": 30
          },
          "sandbox": "box",
          "schema": 1
        }
        "#);
    }

    #[test]
    fn a_long_incident_shows_its_beginning_and_its_end() {
        let mut incident = open();
        incident.left_out = 1_000;
        incident.happened = (0..50).map(|n| happened(n, "ended", &format!("end {n}"))).collect();
        incident.tried.clear();
        let text = lines_of(&incident);
        assert_eq!(text.lines().count(), LINES + 1);
        assert!(
            text.contains("end 0\n") && text.contains("end 49\n") && text.contains("(1034 more)"),
            "{text}"
        );
    }

    #[test]
    fn any_time_and_span_can_be_shown() {
        assert_eq!(clock(AT), "2025-11-25 05:41:25.000");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
        let spans = [900, 125_000, 11_520_000, 183_600_000].map(span);
        assert_eq!(spans, ["0.9 s", "2 min 5 s", "3 h 12 min", "2 d 3 h"]);
    }
}
