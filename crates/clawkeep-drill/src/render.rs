//! The scorecard for a terminal: failures first, then group by group, one line an attempt.

use std::fmt::Write as _;

use crate::scorecard::{Change, Judged, Outcome, Scorecard, Scored};

/// What goes with a scorecard.
#[derive(Debug, Clone, Copy)]
pub struct Rendered<'a> {
    /// What was found.
    pub card: &'a Scorecard,
    /// What is otherwise than the last time, where that was asked.
    pub changes: Option<&'a [Change]>,
}

/// As text. Nothing in it comes from a sandbox but words of printable ASCII.
pub fn render(rendered: &Rendered<'_>) -> String {
    let card = rendered.card;
    let mut text = String::new();
    for attempt in card.attempts.iter().filter(|attempt| attempt.outcome.fails()) {
        failure(&mut text, card, attempt);
    }
    let width = card.attempts.iter().map(|attempt| attempt.id.len()).max().unwrap_or(0);
    let mut group = None;
    for attempt in &card.attempts {
        if group != Some(attempt.group) {
            group = Some(attempt.group);
            let _ = writeln!(text, "{}{}", if text.is_empty() { "" } else { "\n" }, attempt.group.name());
        }
        let line = format!(
            "  {:<8} {:<width$}  {:<28} {}",
            attempt.outcome.name(),
            attempt.id,
            ways(attempt),
            attempt.tries
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if let Some(changes) = rendered.changes {
        text += &changed(changes);
    }
    let totals = &card.totals;
    let _ = writeln!(
        text,
        "\n{}: {} held, {} open, {} broken, {} not run{}",
        card.target,
        totals.held,
        totals.open,
        totals.broken,
        totals.not_run,
        if card.recovered { ", before and after a recovery" } else { "" },
    );
    text
}

fn failure(text: &mut String, card: &Scorecard, attempt: &Scored) {
    let _ = writeln!(text, "{:<8} {}: {}", attempt.outcome.name().to_uppercase(), attempt.id, attempt.tries);
    for way in attempt.ways.iter().filter(|way| way.outcome.fails()) {
        let expected = way.expected.join(" or ");
        let _ = writeln!(
            text,
            "  {:<7} {} (expected {expected}): {}",
            way.runtime.name(),
            answer(way),
            way.reason
        );
    }
    let target = &card.target;
    let next = match attempt.outcome {
        Outcome::Open => format!(
            "clawkeep {target} stop, and report it with clawkeep {target} drill --only {} --json",
            attempt.id
        ),
        _ => format!("clawkeep {target} status, then clawkeep {target} drill --only {}", attempt.id),
    };
    let _ = writeln!(text, "  next: {next}");
}

fn answer(way: &Judged) -> &str {
    if way.answer.is_empty() { "no answer" } else { &way.answer }
}

/// `static python EPERM, node ECONNREFUSED`, or why it was not tried.
fn ways(attempt: &Scored) -> String {
    let mut parts: Vec<(String, Vec<&str>)> = Vec::new();
    for way in attempt.ways.iter().filter(|way| way.outcome != Outcome::NotRun) {
        match parts.iter_mut().find(|(word, _)| word == answer(way)) {
            Some((_, runtimes)) => runtimes.push(way.runtime.name()),
            None => parts.push((answer(way).to_owned(), vec![way.runtime.name()])),
        }
    }
    if parts.is_empty() {
        return attempt.ways.first().map(|way| format!("({})", way.reason)).unwrap_or_default();
    }
    let parts: Vec<_> =
        parts.iter().map(|(word, runtimes)| format!("{word} {}", runtimes.join(" "))).collect();
    parts.join(", ")
}

fn changed(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "\nas the last time\n".to_owned();
    }
    let mut text = "\nsince the last time\n".to_owned();
    let (worse, better): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.is_regression());
    for change in worse.into_iter().chain(better) {
        let mark = if change.is_regression() { "worse" } else { "other" };
        let _ = writeln!(
            text,
            "  {mark:<8} {}: was {}, is {}",
            change.id,
            change.before.name(),
            change.now.name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scorecard::tests::example;

    #[test]
    fn failures_come_first_with_what_to_do() {
        let card = example();
        insta::assert_snapshot!(render(&Rendered { card: &card, changes: None }), @r"
        OPEN     vsock: a socket to the hypervisor
          static  ok (expected EPERM): it was done: ok
          next: clawkeep box stop, and report it with clawkeep box drill --only vsock --json
        BROKEN   bpf: to load a BPF program
          static  EACCES (expected EPERM): the control failed: EPERM
          next: clawkeep box status, then clawkeep box drill --only bpf

        egress
          held     tcp-direct  EPERM static                 TCP past the proxy
          open     vsock       ok static, EPERM node        a socket to the hypervisor

        kernel
          broken   bpf         EACCES static                to load a BPF program

        lifecycle
          not-run  eat-memory  (its limit is too large)     more memory than the sandbox may have

        box: 1 held, 1 open, 1 broken, 1 not run, before and after a recovery
        ");
    }

    #[test]
    fn changes_are_told_worst_first() {
        let (before, mut now) = (example(), example());
        now.attempts[0].outcome = Outcome::Open;
        now.attempts[1].outcome = Outcome::Held;
        let text = |changes: &[Change]| {
            let whole = render(&Rendered { card: &now, changes: Some(changes) });
            whole.split_once("may have\n\n").unwrap().1.to_owned()
        };
        insta::assert_snapshot!(text(&now.compare(&before)) + &text(&[]), @r"
        since the last time
          worse    tcp-direct: was held, is open
          other    vsock: was open, is held

        box: 1 held, 1 open, 1 broken, 1 not run, before and after a recovery
        as the last time

        box: 1 held, 1 open, 1 broken, 1 not run, before and after a recovery
        ");
    }
}
