//! What a drill found, as it is stored and printed as JSON. Fields are only added.

use serde::{Deserialize, Serialize};

use crate::attempt::Group;
use crate::target::Runtime;

/// How an attempt ended; in the order of what matters most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The attack worked.
    Open,
    /// Nothing is proven: the neighbour does not work, there was no answer, or another wall than the expected
    /// one answered.
    Broken,
    /// It could not be tried here.
    NotRun,
    /// The wall stands, and its neighbour works.
    Held,
}

impl Outcome {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Broken => "broken",
            Self::NotRun => "not-run",
            Self::Held => "held",
        }
    }

    /// Whether a drill with it has failed.
    pub fn fails(self) -> bool {
        matches!(self, Self::Open | Self::Broken)
    }
}

/// A whole drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scorecard {
    /// 1.
    pub schema: u32,
    /// What was drilled.
    pub target: String,
    /// Version of this program.
    pub version: String,
    /// Release of the kernel.
    pub kernel: String,
    /// When, RFC 3339, UTC.
    pub at: String,
    /// Whether the agent was ended and came back in between.
    pub recovered: bool,
    /// How many of each outcome.
    pub totals: Totals,
    /// Every attempt, in order.
    pub attempts: Vec<Scored>,
}

/// How many attempts ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals {
    /// [`Outcome::Held`].
    pub held: usize,
    /// [`Outcome::Open`].
    pub open: usize,
    /// [`Outcome::Broken`].
    pub broken: usize,
    /// [`Outcome::NotRun`].
    pub not_run: usize,
}

/// An attempt's result: the worst of its ways, where one could be tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scored {
    /// Its stable name.
    pub id: String,
    /// What it was aimed at.
    pub group: Group,
    /// What was tried.
    pub tries: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The programs that tried it.
    pub ways: Vec<Judged>,
}

/// The result of one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Which program.
    pub runtime: Runtime,
    /// How it ended.
    pub outcome: Outcome,
    /// What it answered: `ok`, the name of an error or signal, or another word. Hostile text, printable.
    pub answer: String,
    /// The answers that hold.
    pub expected: Vec<String>,
    /// Why it is not held; empty where it is.
    pub reason: String,
}

impl Scored {
    /// Of its ways: the worst of those that could be tried.
    pub(crate) fn new(id: &str, group: Group, tries: &str, ways: Vec<Judged>) -> Self {
        let tried = ways.iter().map(|way| way.outcome).filter(|outcome| *outcome != Outcome::NotRun);
        let outcome = tried.min().unwrap_or(Outcome::NotRun);
        Self { id: id.to_owned(), group, tries: tries.to_owned(), outcome, ways }
    }

    /// Of what the host saw.
    pub(crate) fn seen(id: &str, group: Group, tries: &str, outcome: Outcome, reason: String) -> Self {
        let answer = if outcome == Outcome::Held { "as-expected" } else { "" };
        let way = Judged {
            runtime: Runtime::Host,
            outcome,
            answer: answer.to_owned(),
            expected: vec!["as-expected".to_owned()],
            reason,
        };
        Self::new(id, group, tries, vec![way])
    }
}

impl Scorecard {
    /// Whether nothing is open and nothing broken.
    pub fn passed(&self) -> bool {
        self.totals.open == 0 && self.totals.broken == 0
    }

    /// What is otherwise than the last time. Attempts that only one of the two made are left out: a drill of
    /// some attempts says nothing about the others.
    pub fn compare(&self, before: &Self) -> Vec<Change> {
        let changed = |now: &Scored| {
            let then = before.attempts.iter().find(|then| then.id == now.id)?;
            (then.outcome != now.outcome).then(|| Change {
                id: now.id.clone(),
                before: then.outcome,
                now: now.outcome,
            })
        };
        self.attempts.iter().filter_map(changed).collect()
    }
}

impl Totals {
    pub(crate) fn of(attempts: &[Scored]) -> Self {
        let count = |outcome| attempts.iter().filter(|attempt| attempt.outcome == outcome).count();
        Self {
            held: count(Outcome::Held),
            open: count(Outcome::Open),
            broken: count(Outcome::Broken),
            not_run: count(Outcome::NotRun),
        }
    }
}

/// An attempt that ended otherwise than the last time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which attempt.
    pub id: String,
    /// How it ended then.
    pub before: Outcome,
    /// How it ended now.
    pub now: Outcome,
}

impl Change {
    /// Whether it was held and is not any more.
    pub fn is_regression(&self) -> bool {
        self.before == Outcome::Held
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn way(runtime: Runtime, outcome: Outcome, answer: &str, reason: &str) -> Judged {
        let expected = vec!["EPERM".to_owned()];
        Judged { runtime, outcome, answer: answer.to_owned(), expected, reason: reason.to_owned() }
    }

    pub(crate) fn example() -> Scorecard {
        use Outcome::{Broken, Held, NotRun, Open};
        let attempts = vec![
            Scored::new(
                "tcp-direct",
                Group::Egress,
                "TCP past the proxy",
                vec![
                    way(Runtime::Static, Held, "EPERM", ""),
                    way(Runtime::Python, NotRun, "", "there is no python in it"),
                ],
            ),
            Scored::new(
                "vsock",
                Group::Egress,
                "a socket to the hypervisor",
                vec![
                    way(Runtime::Static, Open, "ok", "it was done: ok"),
                    way(Runtime::Node, Held, "EPERM", ""),
                ],
            ),
            Scored::new(
                "bpf",
                Group::Kernel,
                "to load a BPF program",
                vec![way(Runtime::Static, Broken, "EACCES", "the control failed: EPERM")],
            ),
            Scored::new(
                "eat-memory",
                Group::Lifecycle,
                "more memory than the sandbox may have",
                vec![way(Runtime::Static, NotRun, "", "its limit is too large")],
            ),
        ];
        Scorecard {
            schema: 1,
            target: "box".into(),
            version: "0.1.0".into(),
            kernel: "6.18.0".into(),
            at: "2026-11-25T09:00:00Z".into(),
            recovered: true,
            totals: Totals::of(&attempts),
            attempts,
        }
    }

    #[test]
    fn the_worst_way_counts_and_what_could_not_be_tried_does_not() {
        let card = example();
        let outcomes: Vec<_> = card.attempts.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, [Outcome::Held, Outcome::Open, Outcome::Broken, Outcome::NotRun]);
        assert_eq!(card.totals, Totals { held: 1, open: 1, broken: 1, not_run: 1 });
        assert!(!card.passed());
    }

    #[test]
    fn compares_what_both_have_tried() {
        let (before, mut now) = (example(), example());
        assert_eq!(now.compare(&before), []);
        now.attempts[0].outcome = Outcome::Open;
        now.attempts[1].outcome = Outcome::Held;
        now.attempts[2].id = "another".into();
        let changes = now.compare(&before);
        let brief: Vec<_> =
            changes.iter().map(|c| (c.id.as_str(), c.before, c.now, c.is_regression())).collect();
        assert_eq!(
            brief,
            [
                ("tcp-direct", Outcome::Held, Outcome::Open, true),
                ("vsock", Outcome::Open, Outcome::Held, false)
            ]
        );
    }

    #[test]
    fn its_json_is_stable() {
        let mut card = example();
        card.attempts.truncate(1);
        insta::assert_snapshot!(serde_json::to_string_pretty(&card).unwrap(), @r#"
        {
          "schema": 1,
          "target": "box",
          "version": "0.1.0",
          "kernel": "6.18.0",
          "at": "2026-11-25T09:00:00Z",
          "recovered": true,
          "totals": {
            "held": 1,
            "open": 1,
            "broken": 1,
            "not-run": 1
          },
          "attempts": [
            {
              "id": "tcp-direct",
              "group": "egress",
              "tries": "TCP past the proxy",
              "outcome": "held",
              "ways": [
                {
                  "runtime": "static",
                  "outcome": "held",
                  "answer": "EPERM",
                  "expected": [
                    "EPERM"
                  ],
                  "reason": ""
                },
                {
                  "runtime": "python",
                  "outcome": "not-run",
                  "answer": "",
                  "expected": [
                    "EPERM"
                  ],
                  "reason": "there is no python in it"
                }
              ]
            }
          ]
        }
        "#);
    }
}
