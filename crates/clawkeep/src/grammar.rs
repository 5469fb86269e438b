//! Both word orders are one language: `clawkeep my-assistant connect` becomes `clawkeep connect my-assistant`
//! before the parser sees it.

use std::ffi::OsString;

use clawkeep_plan::{NameError, SandboxName};

use crate::problem::Problem;

/// Commands about one sandbox.
const OF_A_SANDBOX: &[&str] = &[
    "agent",
    "connect",
    "destroy",
    "drill",
    "events",
    "exec",
    "gateway",
    "inference",
    "logs",
    "policy",
    "rebuild",
    "recover",
    "start",
    "status",
    "stop",
    "use",
    "why",
];

/// Those of them that are two words.
const OF_TWO_WORDS: &[(&str, &[&str])] = &[
    ("gateway", &["restart"]),
    ("inference", &["get", "set", "add-fallback", "remove-fallbacks"]),
    ("policy", &["get", "set", "add", "remove", "tier", "list", "explain", "requests", "approve"]),
];

/// Commands about none that are two words.
const OF_NONE_AND_TWO_WORDS: &[(&str, &[&str])] = &[
    ("credentials", &["list", "add", "reset", "remove"]),
    ("service", &["install", "uninstall", "status", "run"]),
];

/// Commands about none.
const OF_NONE: &[&str] =
    &["completion", "credentials", "doctor", "help", "list", "metrics", "onboard", "service", "version"];

/// Commands of the outside contract that this version does not have, and what does the job meanwhile.
const NOT_YET: &[(&str, &str)] = &[
    ("backup-all", "stop the sandboxes, then copy $CLAWKEEP_HOME"),
    ("debug", "clawkeep status --json"),
    ("snapshot", "stop the sandbox, then copy $CLAWKEEP_HOME/sandboxes/NAME/home"),
    ("tui", "clawkeep status"),
    ("uninstall", "clawkeep NAME destroy, then remove $CLAWKEEP_HOME"),
];

/// The arguments, program first, with the command before the sandbox. What is no command and no name is
/// refused here; the parser would call it something else.
///
/// # Errors
/// `unknown-command`, `bad-name`, `not-yet`: nothing was touched.
pub fn verb_first(mut args: Vec<OsString>) -> Result<Vec<OsString>, Problem> {
    let word = |args: &[OsString], at: usize| args.get(at).map(|word| word.to_string_lossy().into_owned());
    let Some(first) = word(&args, 1).filter(|first| !first.starts_with('-')) else { return Ok(args) };
    if OF_A_SANDBOX.contains(&first.as_str()) || OF_NONE.contains(&first.as_str()) {
        return Ok(args);
    }
    refuse_not_yet(&first, "NAME")?;
    let second = word(&args, 2);
    if let Err(error) = first.parse::<SandboxName>() {
        let about_a_sandbox = second.is_some_and(|second| OF_A_SANDBOX.contains(&second.as_str()));
        return Err(if about_a_sandbox && !matches!(error, NameError::Reserved(_)) {
            Problem::bad_name(&error)
        } else {
            unknown(&first)
        });
    }
    let name = args.remove(1);
    match second.as_deref() {
        None => args.push("status".into()),
        Some(option) if option.starts_with('-') => args.insert(1, "status".into()),
        Some(command) if OF_A_SANDBOX.contains(&command) => {}
        Some(command) if OF_NONE.contains(&command) => {
            let message = format!("{command:?} is not about one sandbox");
            return Err(Problem::usage("usage", message, &format!("clawkeep {command}")));
        }
        Some(command) => {
            refuse_not_yet(command, &first)?;
            return Err(unknown(command));
        }
    }
    // `gateway restart` is one command of two words; alone, or asked for its help, it is about no sandbox.
    let two_words = OF_TWO_WORDS.iter().find(|(one, _)| args[1] == *one);
    let place = match (two_words, word(&args, 2)) {
        (None, _) => 2,
        (Some(_), Some(word)) if !word.starts_with('-') => 3,
        (Some(_), Some(_)) => return Ok(args),
        (Some((one, others)), None) => {
            let message = format!("{one} needs one more word: {}", others.join(" or "));
            return Err(Problem::usage("usage", message, &format!("clawkeep {first} {one} {}", others[0])));
        }
    };
    args.insert(place, name);
    Ok(args)
}

/// The command's one or two words, as its help is asked for.
pub fn command_of(args: &[OsString]) -> Option<String> {
    let word = |at: usize| args.get(at).map(|word| word.to_string_lossy());
    let first = word(1).filter(|first| !first.starts_with('-'))?;
    let others = OF_TWO_WORDS
        .iter()
        .chain(OF_NONE_AND_TWO_WORDS)
        .find(|(one, _)| first == *one)
        .map(|(_, others)| *others);
    let second = word(2).filter(|second| others.is_some_and(|others| others.contains(&second.as_ref())));
    Some(second.map_or_else(|| first.to_string(), |second| format!("{first} {second}")))
}

fn refuse_not_yet(command: &str, sandbox: &str) -> Result<(), Problem> {
    match NOT_YET.iter().find(|(name, _)| *name == command) {
        Some((name, instead)) => {
            let message = format!("{name:?} is not in this version yet");
            Err(Problem::usage("not-yet", message, &instead.replace("NAME", sandbox)))
        }
        None => Ok(()),
    }
}

fn unknown(command: &str) -> Problem {
    Problem::usage("unknown-command", format!("{command:?} is no command"), "clawkeep --help")
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use proptest::prelude::*;

    use super::*;
    use crate::cli::Cli;

    fn rewritten(line: &str) -> Result<String, Problem> {
        let args = std::iter::once("clawkeep").chain(line.split_whitespace()).map(OsString::from).collect();
        let args = verb_first(args)?;
        Ok(args[1..].iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_sandbox_may_come_first() {
        for (from, to) in [
            ("", ""),
            ("--help", "--help"),
            ("list --json", "list --json"),
            ("box", "status box"),
            ("box --json", "status box --json"),
            ("box connect --probe-only", "connect box --probe-only"),
            ("box exec -- ls -l", "exec box -- ls -l"),
            ("exec -- box connect", "exec -- box connect"),
            ("box gateway restart", "gateway restart box"),
            ("box gateway --help", "gateway --help"),
            ("box inference get --json", "inference get box --json"),
            ("box inference set --model m", "inference set box --model m"),
            ("box inference set --help", "inference set box --help"),
            ("inference set box --model m", "inference set box --model m"),
            ("inference get", "inference get"),
            ("box inference --help", "inference --help"),
            ("box policy explain github.com GET /x", "policy explain box github.com GET /x"),
            ("policy set box file.yaml", "policy set box file.yaml"),
            ("box policy list --json", "policy list box --json"),
            ("box use", "use box"),
            ("box drill --only tcp", "drill box --only tcp"),
            ("box why --last 1", "why box --last 1"),
            ("events --follow", "events --follow"),
            ("box events", "events box"),
            ("service status --json", "service status --json"),
            ("onboard --name box -- sleep 1", "onboard --name box -- sleep 1"),
        ] {
            assert_eq!(rewritten(from).unwrap(), to, "{from}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_its_own_code() {
        for (line, code) in [
            ("Box connect", "bad-name"),
            ("a--b status", "bad-name"),
            ("Box", "unknown-command"),
            ("box conect", "unknown-command"),
            ("init", "unknown-command"),
            ("pod connect", "unknown-command"),
            ("box list", "usage"),
            ("box service", "usage"),
            ("box gateway", "usage"),
            ("box inference", "usage"),
            ("snapshot box", "not-yet"),
            ("box snapshot --yes", "not-yet"),
            ("box credentials", "usage"),
            ("tui", "not-yet"),
        ] {
            let problem = rewritten(line).unwrap_err();
            assert_eq!((problem.failure.code.as_str(), problem.status), (code, 2), "{line}");
            assert!(problem.failure.next.is_some());
        }
    }

    #[test]
    fn every_command_can_name_no_sandbox_and_is_known_to_both_parsers() {
        let reserved = clawkeep_plan::RESERVED_NAMES;
        for word in OF_A_SANDBOX.iter().chain(OF_NONE).chain(NOT_YET.iter().map(|(name, _)| name)) {
            assert!(reserved.contains(word), "{word}");
        }
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(OF_A_SANDBOX.contains(&name) || OF_NONE.contains(&name), "{name}");
        }
        for word in OF_A_SANDBOX.iter().chain(OF_NONE).filter(|word| **word != "help") {
            assert!(Cli::command().find_subcommand(word).is_some(), "{word}");
        }
    }

    #[test]
    fn help_is_asked_for_by_one_word_or_two() {
        for (line, command) in [
            ("list extra", Some("list")),
            ("inference set box", Some("inference set")),
            ("inference box", Some("inference")),
            ("service install --x", Some("service install")),
            ("service run", Some("service run")),
            ("credentials add X", Some("credentials add")),
            ("status set", Some("status")),
            ("--nothing", None),
            ("", None),
        ] {
            let args: Vec<_> =
                std::iter::once("clawkeep").chain(line.split_whitespace()).map(OsString::from).collect();
            assert_eq!(command_of(&args).as_deref(), command, "{line}");
        }
    }

    fn any_line() -> impl Strategy<Value = (&'static str, Vec<&'static str>)> {
        prop_oneof![
            Just(("status", vec!["--json"])),
            Just(("status", vec![])),
            Just(("connect", vec!["--probe-only"])),
            Just(("connect", vec![])),
            Just(("exec", vec!["--", "sh", "-c", "exit 3"])),
            Just(("exec", vec!["--", "connect", "--json", "--"])),
            Just(("logs", vec!["--follow", "--tail", "5", "--since", "5m"])),
            Just(("destroy", vec!["--yes", "--force"])),
            Just(("agent", vec!["-m", "status"])),
            Just(("gateway restart", vec![])),
            Just(("inference get", vec!["--json"])),
            Just((
                "inference set",
                vec!["--provider", "custom", "--endpoint-url", "http://h/v1", "--model", "m"]
            )),
            Just(("policy get", vec!["--json"])),
            Just(("policy explain", vec!["a.example:443", "GET", "/x"])),
            Just(("policy add", vec!["npm"])),
            Just(("recover", vec![])),
            Just(("start", vec![])),
            Just(("stop", vec![])),
            Just(("use", vec![])),
        ]
    }

    proptest! {
        #[test]
        fn both_orders_are_the_same_command(name in "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,2}", (verb, rest) in any_line()) {
            prop_assume!(name.parse::<SandboxName>().is_ok());
            let verb: Vec<&str> = verb.split(' ').collect();
            let parse = |words: Vec<&str>| {
                let args = std::iter::once("clawkeep").chain(words).map(OsString::from).collect();
                format!("{:?}", Cli::try_parse_from(verb_first(args).unwrap()).unwrap())
            };
            let verb_first = parse([&verb[..], &[name.as_str()], &rest[..]].concat());
            let name_first = parse([&[name.as_str()], &verb[..], &rest[..]].concat());
            prop_assert_eq!(verb_first, name_first);
        }

        #[test]
        fn no_line_is_lost_or_panics(words in proptest::collection::vec("\\PC{0,12}", 0..6)) {
            let args: Vec<OsString> = std::iter::once("clawkeep").chain(words.iter().map(String::as_str)).map(OsString::from).collect();
            let help = words.get(1).is_some_and(|word| OF_TWO_WORDS.iter().any(|(one, _)| word == one));
            if let Ok(out) = verb_first(args.clone()) && !help {
                let status = usize::from(out.len() > args.len());
                prop_assert_eq!(out.len(), args.len() + status);
                prop_assert!(args.iter().all(|word| out.contains(word)));
            }
        }
    }
}
