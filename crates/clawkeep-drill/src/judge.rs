//! What an answer means.

use crate::answer::{self, Answer};
use crate::scorecard::{Judged, Outcome};
use crate::target::{Runtime, Said};

/// Answers by which a kernel or a proxy refuses. Of any of them it can be said that nothing was opened.
const REFUSALS: &[&str] = &[
    "EPERM",
    "EACCES",
    "ENOSYS",
    "EROFS",
    "ENOENT",
    "EXDEV",
    "ENXIO",
    "ENETUNREACH",
    "EHOSTUNREACH",
    "ECONNREFUSED",
    "EAFNOSUPPORT",
    "EPROTONOSUPPORT",
    "ESOCKTNOSUPPORT",
    "SIGSYS",
    "400",
    "403",
    "404",
    "421",
    "closed",
];

/// Judge one way. `exact`: only the answers that are written down will do.
pub(crate) fn judge(runtime: Runtime, expect: &[&str], said: &Said, hits: &[&str], exact: bool) -> Judged {
    let told = answer::read(&said.output);
    let mut judged = Judged {
        runtime,
        outcome: Outcome::Broken,
        answer: told.attack.as_ref().map_or_else(String::new, |answer| answer.word.clone()),
        expected: expect.iter().map(|word| (*word).to_owned()).collect(),
        reason: String::new(),
    };
    let (outcome, reason) = if hits.is_empty() {
        decide(runtime, expect, said, told.control.as_ref(), told.attack.as_ref(), exact)
    } else {
        (Outcome::Open, format!("reached: {}", hits.join(", ")))
    };
    judged.outcome = outcome;
    judged.reason = reason;
    judged
}

fn decide(
    runtime: Runtime,
    expect: &[&str],
    said: &Said,
    control: Option<&Answer>,
    attack: Option<&Answer>,
    exact: bool,
) -> (Outcome, String) {
    if said.timed_out {
        return (Outcome::Broken, "no answer in time".to_owned());
    }
    let Some(control) = control else {
        return match said.status {
            // Not there, or not to be executed.
            126 | 127 => (Outcome::NotRun, format!("there is no {} in it", runtime.name())),
            status => (Outcome::Broken, format!("it said nothing, and ended with status {status}")),
        };
    };
    if control.word == "absent" {
        return (Outcome::NotRun, control.detail.clone());
    }
    if control.word == "EAFNOSUPPORT" {
        return (Outcome::NotRun, "this kernel has no such sockets, not even legitimate ones".to_owned());
    }
    if control.word != "ok" {
        return (Outcome::Broken, with("the control failed", control));
    }
    let Some(attack) = attack else {
        return (Outcome::Broken, format!("the attack gave no answer, status {}", said.status));
    };
    match attack.word.as_str() {
        "absent" => (Outcome::NotRun, attack.detail.clone()),
        word if expect.contains(&word) => (Outcome::Held, String::new()),
        "error" | "silent" | "SIGALRM" => (Outcome::Broken, with("the attack could not be made", attack)),
        word if REFUSALS.contains(&word) && exact => {
            (Outcome::Broken, format!("refused, but by another wall: expected {}", expect.join(" or ")))
        }
        word if REFUSALS.contains(&word) => (Outcome::Held, String::new()),
        _ => (Outcome::Open, with("it was done", attack)),
    }
}

fn with(what: &str, answer: &Answer) -> String {
    let said = format!("{} {}", answer.word, answer.detail);
    format!("{what}: {}", said.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(control: &str, attack: &str) -> Said {
        let line = |step: &str, word: &str| match word {
            "" => String::new(),
            word => format!("{{\"step\":\"{step}\",\"answer\":\"{word}\",\"detail\":\"why\"}}\n"),
        };
        Said { output: (line("control", control) + &line("attack", attack)).into(), ..Said::default() }
    }

    fn outcome(control: &str, attack: &str, exact: bool) -> Outcome {
        judge(Runtime::Static, &["EPERM"], &said(control, attack), &[], exact).outcome
    }

    #[test]
    fn only_the_expected_answer_beside_a_working_neighbour_is_held() {
        use Outcome::{Broken, Held, NotRun, Open};
        for (control, attack, exact, expected) in [
            ("ok", "EPERM", true, Held),
            ("ok", "EACCES", true, Broken),
            ("ok", "EACCES", false, Held),
            ("ok", "ok", true, Open),
            ("ok", "ok", false, Open),
            ("ok", "EFAULT", true, Open),
            ("ok", "absent", true, NotRun),
            ("ok", "silent", true, Broken),
            ("ok", "", true, Broken),
            ("EPERM", "EPERM", true, Broken),
            ("absent", "", true, NotRun),
            ("EAFNOSUPPORT", "", true, NotRun),
            ("", "EPERM", true, Broken),
        ] {
            assert_eq!(outcome(control, attack, exact), expected, "{control} {attack} {exact}");
        }
    }

    #[test]
    fn what_the_host_saw_counts_more_than_what_was_said() {
        let judged = judge(Runtime::Node, &["EPERM"], &said("ok", "EPERM"), &["the host's file"], true);
        assert_eq!((judged.outcome, judged.reason.as_str()), (Outcome::Open, "reached: the host's file"));
    }

    #[test]
    fn a_missing_interpreter_is_told_and_a_late_answer_is_none() {
        let missing = Said { status: 127, ..Said::default() };
        assert_eq!(judge(Runtime::Node, &["EPERM"], &missing, &[], true).outcome, Outcome::NotRun);
        let late = Said { timed_out: true, ..said("ok", "EPERM") };
        assert_eq!(judge(Runtime::Node, &["EPERM"], &late, &[], true).outcome, Outcome::Broken);
    }
}
