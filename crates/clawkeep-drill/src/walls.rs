//! What is otherwise where the walls are Landlock and seccomp alone (docs/TIERS.md): other walls answer, some attempts
//! have to be made in another way, and some things are not walled there by design, which is told and not tried.

use crate::attempt::{Attempt, Control, Needs, Way};
use crate::attempts::BESIDE;
use crate::target::Walls;

/// What is otherwise about one attempt.
#[derive(Debug)]
pub(crate) enum Beside {
    /// These answers hold, of whichever program.
    Answers(&'static [&'static str]),
    /// The first where the agent's user is nobody else's, else the second.
    AnswersOf(&'static [&'static str], &'static [&'static str]),
    /// It is made in this way.
    Otherwise(Control, &'static [Way]),
    /// It is not walled, for this reason.
    Unwalled(&'static str),
    /// The answers where the agent's user is nobody else's; else it is not walled.
    UnwalledOfOnesOwn(&'static [&'static str], &'static str),
}

/// An attempt as it is made behind some walls.
pub(crate) struct Tried {
    pub control: &'static Control,
    pub ways: &'static [Way],
    /// Instead of those of each way.
    pub expect: Option<&'static [&'static str]>,
    pub needs: Needs,
    /// Why it is not tried.
    pub unwalled: Option<&'static str>,
}

/// How it is made behind these walls.
pub(crate) fn tried(attempt: &'static Attempt, walls: Walls) -> Tried {
    let Attempt { control, ways, needs, .. } = attempt;
    let mut tried = Tried { control, ways, expect: None, needs: *needs, unwalled: None };
    let Walls::Landlock { own_user } = walls else { return tried };
    let Some((_, beside)) = BESIDE.iter().find(|(id, _)| *id == attempt.id) else { return tried };
    // Whoever wrote that down has seen to it that it harms nobody there.
    if tried.needs == Needs::OwnProcesses {
        tried.needs = Needs::Nothing;
    }
    match beside {
        Beside::Answers(expect) => tried.expect = Some(expect),
        Beside::AnswersOf(expect, _) | Beside::UnwalledOfOnesOwn(expect, _) if own_user => {
            tried.expect = Some(expect);
        }
        Beside::AnswersOf(_, expect) => tried.expect = Some(expect),
        Beside::Otherwise(control, ways) => (tried.control, tried.ways) = (control, ways),
        Beside::Unwalled(reason) | Beside::UnwalledOfOnesOwn(_, reason) => tried.unwalled = Some(reason),
    }
    tried
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::attempts::attempts;

    #[test]
    fn whatever_is_otherwise_is_an_attempt_and_said_once() {
        let known: BTreeSet<_> = attempts().map(|attempt| attempt.id).collect();
        let said: Vec<_> = BESIDE.iter().map(|(id, _)| *id).collect();
        let unknown: Vec<_> = said.iter().filter(|id| !known.contains(*id)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(said.iter().collect::<BTreeSet<_>>().len(), said.len());
        for (id, beside) in BESIDE {
            if let Beside::Answers(words) | Beside::AnswersOf(words, _) = beside {
                assert!(!words.is_empty() && !words.contains(&"ok"), "{id}");
            }
        }
    }

    #[test]
    fn it_is_made_otherwise_there_and_nowhere_else() {
        let attempt = |id: &str| attempts().find(|attempt| attempt.id == id).unwrap();
        let own = Walls::Landlock { own_user: true };
        let shared = Walls::Landlock { own_user: false };
        assert!(tried(attempt("tcp-direct"), Walls::Namespaces).expect.is_none());
        assert_eq!(tried(attempt("tcp-direct"), own).expect, Some(&["EACCES"][..]));
        assert!(tried(attempt("bpf"), shared).expect.is_none());
        assert!(tried(attempt("inotify-flood"), own).unwalled.is_none());
        assert!(tried(attempt("inotify-flood"), shared).unwalled.is_some());
    }
}
