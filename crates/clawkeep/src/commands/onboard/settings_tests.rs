use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Answers in order; panics at a question too many.
struct Script(Vec<&'static str>);

/// What every provider lists.
const LISTED: [&str; 2] = ["first", "second"];

impl Ask for Script {
    fn line(&mut self, _: &str, default: Option<&str>) -> Result<String, Problem> {
        match self.0.remove(0) {
            "" => Ok(default.unwrap_or_default().to_owned()),
            answer => Ok(answer.to_owned()),
        }
    }

    fn secret(&mut self, _: &str) -> Result<String, Problem> {
        Ok(self.0.remove(0).to_owned())
    }

    fn models(&mut self, _: &RouteChoice) -> Vec<String> {
        LISTED.map(str::to_owned).into()
    }
}

fn resolve(
    line: &str,
    env: &[(&str, &str)],
    answers: Option<Vec<&'static str>>,
) -> Result<Settings, Problem> {
    let words = std::iter::once("onboard").chain(line.split_whitespace());
    let options = Line::try_parse_from(words).unwrap().options;
    let terminal = answers.is_some();
    let mut script = Script(answers.unwrap_or_default());
    let settings = Settings::resolve(options, &Env::of(env), terminal, &mut script);
    assert!(script.0.is_empty(), "not asked for: {:?}", script.0);
    settings
}

fn code(line: &str, env: &[(&str, &str)]) -> String {
    let problem = resolve(line, env, None).unwrap_err();
    assert_eq!(problem.status, 2);
    problem.failure.code
}

#[test]
fn nothing_given_is_the_pinned_openclaw_with_the_canary() {
    let settings = resolve("", &[], None).unwrap();
    assert_eq!(settings.name.as_str(), "my-assistant");
    assert!(
        matches!(settings.agent, AgentPlan::OpenClaw(release) if release.version == Release::pinned().version)
    );
    assert!(settings.route.is_none() && !settings.recreate && !settings.yes && !settings.interactive);
    // Nothing is asked of whoever does not want it.
    for (line, env) in [("--non-interactive", &[][..]), ("", &[("NEMOCLAW_NON_INTERACTIVE", "1")][..])] {
        assert!(!resolve(line, env, Some(vec![])).unwrap().interactive);
    }
}

#[test]
fn options_come_before_our_variables_before_the_old_ones() {
    let env = [
        ("NEMOCLAW_SANDBOX_NAME", "old"),
        ("NEMOCLAW_PROVIDER", "ollama"),
        ("NEMOCLAW_MODEL", "hermes3:8b"),
        ("CLAWKEEP_MODEL", "ours"),
        ("NEMOCLAW_ENDPOINT_URL", "http://10.0.0.1:11434/v1"),
        ("NEMOCLAW_DASHBOARD_PORT", "18795"),
        ("NEMOCLAW_RECREATE_SANDBOX", "1"),
        ("NEMOCLAW_POLICY_PRESETS", "pypi"),
    ];
    let settings = resolve("", &env, None).unwrap();
    let route = settings.route.unwrap();
    assert_eq!((settings.name.as_str(), settings.dashboard_port), ("old", Some(18795)));
    assert_eq!((route.provider.as_str(), route.model.as_str()), ("ollama", "ours"));
    assert_eq!(route.endpoint_url.as_deref(), Some("http://10.0.0.1:11434/v1"));
    assert!(settings.recreate && settings.yes && settings.notes.is_empty());
    assert_eq!(settings.policy.presets, ["pypi"]);

    let line = "--name new --provider custom --model m --endpoint-url http://h/v1 --dashboard-port 1";
    let settings = resolve(line, &env, None).unwrap();
    let route = settings.route.unwrap();
    assert_eq!((settings.name.as_str(), settings.dashboard_port), ("new", Some(1)));
    assert_eq!((route.provider.as_str(), route.model.as_str()), ("custom", "m"));
    assert_eq!(route.endpoint_url.as_deref(), Some("http://h/v1"));
}

#[test]
fn the_founding_reports_call_is_understood() {
    let env = [
        ("NEMOCLAW_PROVIDER", "ollama"),
        ("NEMOCLAW_MODEL", "hermes3:8b"),
        ("NEMOCLAW_NON_INTERACTIVE", "1"),
    ];
    let route = resolve("", &env, None).unwrap().route.unwrap();
    assert_eq!(
        (route.provider.as_str(), route.model.as_str(), route.endpoint_url),
        ("ollama", "hermes3:8b", None)
    );
}

#[test]
fn keys_come_from_the_providers_variable_and_are_not_shown() {
    let env = [("COMPATIBLE_API_KEY", "for-custom"), ("OPENAI_API_KEY", "for-openai")];
    let route = resolve("--provider openai --model m", &env, None).unwrap().route.unwrap();
    assert_eq!(route.key.as_deref(), Some("for-openai"));
    let settings = resolve("--endpoint-url http://h/v1 --model m", &env, None).unwrap();
    assert!(!format!("{settings:?}").contains("for-custom"));
    let route = settings.route.unwrap();
    assert_eq!((route.provider.as_str(), route.key.as_deref()), ("custom", Some("for-custom")));
    assert_eq!(code("--provider openai --model m", &[]), "key-missing");
}

#[test]
fn what_is_missing_is_asked_for_and_only_that() {
    let settings = resolve("", &[], Some(vec!["", ""])).unwrap();
    assert!(settings.interactive && settings.route.is_none());
    let settings = resolve("", &[], Some(vec!["box", "custom", "http://h/v1", "s3cret", "m"])).unwrap();
    let route = settings.route.unwrap();
    assert_eq!((settings.name.as_str(), route.key.as_deref()), ("box", Some("s3cret")));
    // A default is not written down as a choice; a key that is there is not asked for.
    let env = [("OPENAI_API_KEY", "k")];
    let route = resolve("--name a", &env, Some(vec!["openai", "", "m"])).unwrap().route.unwrap();
    assert_eq!((route.endpoint_url, route.key.as_deref()), (None, Some("k")));
    let route = resolve("--name a --provider ollama --model m", &[], Some(vec![""])).unwrap().route.unwrap();
    assert_eq!(route.endpoint_url, None);
    // Of what the provider lists by its number; a number that nothing has is a name.
    for (said, model) in [("2", "second"), ("1", "first"), ("3", "3"), ("0", "0"), ("mine", "mine")] {
        let route = resolve("--name a --provider ollama", &[], Some(vec!["", said])).unwrap().route.unwrap();
        assert_eq!(route.model, model);
    }
    let problem = resolve("--name a --provider ollama", &[], Some(vec!["", ""])).unwrap_err();
    assert_eq!(problem.failure.code, "model-missing");
    assert!(problem.failure.next.unwrap().contains("clawkeep inference models --provider ollama,"));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    for (line, want) in [
        ("--name Bad", "bad-name"),
        ("--name status", "bad-name"),
        ("--provider nobody --model m", "bad-provider"),
        ("--provider Anthropic --model m", "bad-provider"),
        ("--provider anthropic --model m", "key-missing"),
        ("--provider anthropicCompatible --model m", "endpoint-missing"),
        ("--provider custom --model m", "endpoint-missing"),
        ("--provider ollama", "model-missing"),
        ("--model m", "provider-missing"),
        ("--agent-version 1.0", "unknown-version"),
        ("--agent command", "usage"),
        ("-- sleep 1", "usage"),
        ("--health-url tcp://127.0.0.1:1", "usage"),
        ("--agent command --agent-version 1 -- sleep 1", "usage"),
        ("--agent command --health-url http://example.org/ -- sleep 1", "bad-health-url"),
        ("--agent command --bundle /nonexistent -- sleep 1", "bad-bundle"),
        ("--agent command --env novalue -- sleep 1", "usage"),
        ("--agent command -- no-such-program-here", "no-such-program"),
        ("--agent command -- ./relative", "no-such-program"),
        ("--allow h", "bad-argument"),
        ("--preset npm,nothing", "no-such-preset"),
        ("--tier closed", "no-such-tier"),
    ] {
        assert_eq!(code(line, &[]), want, "{line}");
    }
    assert_eq!(code("", &[("NEMOCLAW_DASHBOARD_PORT", "x")]), "bad-variable");
    assert_eq!(code("", &[("NEMOCLAW_SANDBOX_NAME", "../x")]), "bad-name");
}

#[test]
fn a_command_agent_is_taken_as_it_is() {
    let line =
        "--agent command --node-guards --env A=1 --env B=x=y --health-url tcp://127.0.0.1:80 -- sh -c exit";
    let AgentPlan::Command { argv, health_url, node_guards, env, .. } =
        resolve(line, &[], None).unwrap().agent
    else {
        panic!("no command")
    };
    assert!(argv[0].ends_with("/sh") && argv[0].starts_with('/'), "{argv:?}");
    assert_eq!(argv[1..], ["-c", "exit"]);
    assert_eq!(health_url.as_deref(), Some("tcp://127.0.0.1:80"));
    assert!(node_guards);
    assert_eq!(env, BTreeMap::from([("A".into(), "1".into()), ("B".into(), "x=y".into())]));
}
