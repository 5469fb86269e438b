//! The agent's configuration, which is read outside as well before each start: as something that it is not.

use crate::answer;
use crate::attempt::Group;
use crate::scorecard::{Outcome, Scored};
use crate::suite::Drill;
use crate::target::TargetError;

/// What is put in its place.
struct Kind {
    id: &'static str,
    tries: &'static str,
    /// A shell command that makes it at `$file`.
    make: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        id: "config-linked",
        tries: "a link to a file of the host in the place of the agent's configuration",
        make: r#"ln -s "$FILE" "$file""#,
    },
    Kind {
        id: "config-fifo",
        tries: "a named pipe there, for whoever reads it to wait for ever",
        make: r#"mkfifo "$file""#,
    },
    Kind {
        id: "config-directory",
        tries: "a directory there",
        make: r#"mkdir "$file" && : >"$file/.clawkeep-drill""#,
    },
];

/// It, and where it is kept meanwhile.
const FILE: &str = "file=$CONFIG_FILE; saved=$BOX/.clawkeep-drill/config\n";

const UNKNOWN: &str = "this agent has no configuration that is looked after (--config-file)";

/// What is there now is not the user's: the user's is put back.
pub(crate) const RESTORE: &str = r#"
file=$CONFIG_FILE
if [ -n "$file" ] && [ -f .clawkeep-drill/config ] && [ ! -L .clawkeep-drill/config ]; then
    rm -rf "$file" && mv .clawkeep-drill/config "$file"
    for aside in "$file".displaced-*; do
        if [ -p "$aside" ]; then rm -f "$aside"; fi
        if [ -L "$aside" ] && [[ $(readlink "$aside") == */.drill-* ]]; then rm -f "$aside"; fi
        if [ -e "$aside/.clawkeep-drill" ]; then rm -rf "$aside"; fi
    done
fi
"#;

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.id)
}

/// Replace it, end the agent, and see it come back with nothing of the host read or written; one after the other.
pub(crate) fn stage(drill: &mut Drill<'_>) -> Result<Vec<Scored>, TargetError> {
    let mut scored = Vec::new();
    let known = drill.places.config.is_some();
    for kind in KINDS.iter().filter(|kind| drill.wanted(kind.id)).collect::<Vec<_>>() {
        drill.next(kind.id)?;
        let (outcome, reason) = match known {
            true => replaced(drill, kind)?,
            false => (Outcome::NotRun, UNKNOWN.to_owned()),
        };
        scored.push(Scored::seen(kind.id, Group::Lifecycle, kind.tries, outcome, reason));
    }
    Ok(scored)
}

fn replaced(drill: &mut Drill<'_>, kind: &Kind) -> Result<(Outcome, String), TargetError> {
    let plant = format!(
        "{FILE}if [ -L \"$file\" ] || ! [ -f \"$file\" ]; then echo =none; exit; fi\n\
        mkdir -p \"$BOX/.clawkeep-drill\" && mv -n \"$file\" \"$saved\" && {} && echo =planted",
        kind.make
    );
    match word(drill, &plant)?.as_str() {
        "planted" => {}
        "none" => {
            return Ok((Outcome::NotRun, UNKNOWN.to_owned()));
        }
        other => return Ok((Outcome::Broken, format!("it could not be planted: {other}"))),
    }
    let found = drill.target.recover()?;
    // What came back may have read it, and told of it in the same place.
    let look = format!(
        "{FILE}if [ -f \"$file\" ] && grep -qF \"$TOKEN\" \"$file\"; then echo =leaked; else echo =clean; fi"
    );
    let looked = word(drill, &look)?;
    drill.script(&format!("cd \"$BOX\" || exit\n{RESTORE}"))?;
    let hits = drill.hits();
    Ok(match (found.guarded, looked.as_str(), hits.is_empty()) {
        (true, "clean", true) => (Outcome::Held, String::new()),
        (false, ..) => (Outcome::Open, found.detail),
        (true, "leaked", _) => (Outcome::Open, "it holds what is in the host's file".to_owned()),
        (true, _, false) => (Outcome::Open, format!("reached: {}", hits.join(", "))),
        (true, other, true) => (Outcome::Broken, format!("it could not be looked at: {other}")),
    })
}

/// What a script says of itself.
fn word(drill: &mut Drill<'_>, script: &str) -> Result<String, TargetError> {
    let (said, _) = drill.script(script)?;
    Ok(answer::read(&said.output).attack.map_or_else(|| "nothing".to_owned(), |answer| answer.word))
}
