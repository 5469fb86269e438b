use crate::check::{Check, State, examine};
use crate::facts::Facts;

/// Which checks are about a step of the setup, by how the step's name begins.
const ABOUT: &[(&str, &[&str])] = &[
    ("create namespaces", &["userns", "namespaces"]),
    ("write ", &["rights", "ids", "userns"]),
    ("make a ", &["rights", "mounts", "userns"]),
    ("make mounts private", &["userns"]),
    ("prepare Landlock", &["landlock", "kernel"]),
    ("build the seccomp programs", &["seccomp"]),
];

/// Why a step of the setup failed ([`clawkeep_isolation::CreateError`]), as far as the host tells: the failed check
/// that is about it, else the first failed one. `None`: nothing is wrong that was looked for.
pub fn explain(step: &str, facts: &Facts) -> Option<Check> {
    let failed: Vec<_> = examine(facts).into_iter().filter(|check| check.state == State::Fail).collect();
    let about = ABOUT.iter().find(|(begin, _)| step.starts_with(begin)).map_or(&[][..], |(_, ids)| *ids);
    let best = about.iter().find_map(|id| failed.iter().find(|check| check.id == *id));
    best.or(failed.first()).cloned()
}
