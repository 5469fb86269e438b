//! The drill on a live sandbox: every wall holds, before and after a recovery, as root and as an ordinary user;
//! and it notices when one does not.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use clawkeep_daemon::api::{AgentChoice, Request};
use clawkeep_drill::{Outcome as Found, Scorecard};
use clawkeep_isolation::Limits;
use clawkeep_plan::Tier;
use support::{CONFIG, Installation, LONG, name};
use testkit::{Outcome, Reexec, wait_until};

/// Few enough that filling them takes no time.
fn small() -> Limits {
    Limits { memory_bytes: Some(256 << 20), pids: Some(200), cpu_milli: None, file_bytes: Some(64 << 20) }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// It needs scopes for signals and abstract sockets.
fn has_lower_tier(test: &str) -> bool {
    let found = clawkeep_isolation::landlock_abi() >= 6;
    if !found {
        eprintln!("SKIPPED: {test} needs Landlock ABI 6");
    }
    found
}

/// It has a configuration, with which it was well for the settle window.
fn proven(installation: &Installation) {
    installation.exec("box", &format!("mkdir -p /sandbox/.openclaw; echo '{{}}' >/sandbox/{CONFIG}"));
    let gateway = installation.ready("box").gateway.unwrap();
    support::kill9(gateway.pid);
    installation.ready_after("box", gateway.restarts + 1);
    let snapshots = clawkeep_store::Snapshots::of(&installation.home.sandbox(&name("box")));
    wait_until(LONG, "its configuration to be proven", || snapshots.healthy("config").unwrap().map(drop));
}

/// The fake gateway in the lower tier, whose port is the host's.
fn create_beside(installation: &Installation, limits: Limits) {
    if rustix::process::geteuid().is_root() {
        // The agent is another user and must get to what it is shown.
        std::fs::set_permissions(installation.scratch(), std::fs::Permissions::from_mode(0o711)).unwrap();
        std::fs::set_permissions(installation.fake_bundle(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let port = testkit::free_port().to_string();
    let Request::Create(mut create) = installation.fake("box", &["--port", &port], false, limits) else {
        panic!("another request")
    };
    create.tier = Tier::Landlock;
    let AgentChoice::Command { health_url, config, .. } = &mut create.agent else { panic!("{create:?}") };
    (*health_url, *config) = (Some(format!("http://127.0.0.1:{port}/readyz#every=2s")), None);
    installation.ask(&Request::Create(create)).unwrap();
    installation.ask(&Request::Onboarded { name: name("box") }).unwrap();
    installation.ready("box");
}

fn drill(installation: &Installation, args: &[&str]) -> (Scorecard, serde_json::Value) {
    let output = installation.clawkeep(&[&["box", "drill", "--json"], args].concat());
    let value: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let card: Scorecard = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!card.passed())), "{}", text(&output));
    (card, value)
}

/// Everything that could be tried was held.
fn assert_holds(card: &Scorecard, not_run: &[&str]) {
    let failed: Vec<_> = card.attempts.iter().filter(|attempt| attempt.outcome.fails()).collect();
    assert!(failed.is_empty() && card.passed(), "{failed:#?}");
    let missed = card.attempts.iter().filter(|attempt| attempt.outcome == Found::NotRun);
    assert_eq!(missed.map(|attempt| attempt.id.as_str()).collect::<Vec<_>>(), not_run);
    assert!(card.totals.held >= 300, "{:?}", card.totals);
    // Each of them by every program: none of the interpreters was missing.
    for way in card.attempts.iter().filter(|a| a.outcome == Found::Held).flat_map(|attempt| &attempt.ways) {
        assert_eq!(way.outcome, Found::Held, "{way:?}");
    }
}

/// Nothing of it is left in the sandbox or beside it.
fn assert_nothing_left(installation: &Installation) {
    let (output, _) = installation
        .exec("box", "ls -A /sandbox /tmp | grep drill; ls -l /proc/*/exe 2>/dev/null | grep memfd");
    assert_eq!(output, "");
    let run = std::fs::read_dir(installation.home.run()).unwrap().flatten();
    let left: Vec<_> =
        run.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("drill")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_wall_holds_before_and_after_a_recovery() {
    let installation = Installation::new();
    let before = installation.create_fake_within("box", &[], small());
    installation.exec("box", "echo 'alias mine=true' >/sandbox/.bashrc; ln -s .bashrc /sandbox/.profile");
    proven(&installation);
    let (card, _) = drill(&installation, &[]);
    assert_holds(&card, &[]);
    assert!(card.recovered);
    // The agent runs, in another launch than before, guarded.
    let after = installation.ready("box");
    assert_ne!(after.gateway.unwrap().pid, before.gateway.unwrap().pid);
    assert!(installation.launches("box").iter().all(|launch| launch.receipt && launch.guards.len() >= 3));
    // What the agent's user had in the places that were poisoned is there again.
    let (output, _) =
        installation.exec("box", "cat /sandbox/.bashrc; readlink /sandbox/.profile; ls -A /sandbox/.npmrc");
    assert!(output.starts_with("alias mine=true\n.bashrc\n") && output.contains("No such file"), "{output}");
    assert_nothing_left(&installation);
    // It is kept outside, for nobody else to read, and the next one is compared with it.
    let kept = installation.home.sandbox(&name("box")).root().join("drill.json");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o600);
    let mut kept_card: Scorecard = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    assert_eq!(kept_card, card);
    kept_card.attempts[0].outcome = Found::Open;
    std::fs::write(&kept, serde_json::to_vec(&kept_card).unwrap()).unwrap();
    let (_, value) = drill(&installation, &["--compare", "--only", "tcp-direct"]);
    assert_eq!(value["changes"], serde_json::json!([{"id": "tcp-direct", "before": "open", "now": "held"}]));
}

#[test]
fn an_ordinary_user_s_sandbox_holds_as_well() {
    if Reexec::of("an_ordinary_user_s_sandbox_holds_as_well").user(12_345).run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let (card, _) = drill(&installation, &[]);
    let not_run: Vec<_> = ["fork-bomb", "eat-memory", "config-linked", "config-fifo", "config-directory"]
        .into_iter()
        .filter(|id| card.attempts.iter().any(|a| a.id == *id && a.outcome == Found::NotRun))
        .collect();
    assert_holds(&card, &not_run);
    assert_nothing_left(&installation);
}

/// What is not walled without namespaces by design is told with the reason (docs/TIERS.md), and nothing else is open.
const UNWALLED: &[&str] = &[
    "name-any",
    "name-chaos",
    "name-escape",
    "name-lookalike",
    "name-null",
    "name-other-host",
    "name-rebinding",
    "name-reverse",
    "name-text",
    "name-transfer",
    "name-tunnel",
    "see-host-process",
    "climb-out",
    "host-file-exists",
    "kernel-keys",
    "setuid-mounts",
    "fill-tmp",
    "flood-of-files",
    "config-directory",
    "config-fifo",
    "config-linked",
];

/// The same where the agent's user is the person's own.
const UNWALLED_OF_ONES_OWN: &[&str] = &[
    "host-file-watch",
    "groups",
    "bounding-set",
    "eat-memory",
    "fork-bomb",
    "inotify-flood",
    "kill-everything",
];

fn assert_holds_beside(card: &Scorecard, may_not_run: &[&[&str]]) {
    let missed = card.attempts.iter().filter(|attempt| attempt.outcome == Found::NotRun);
    for attempt in missed {
        let said = may_not_run.iter().any(|ids| ids.contains(&attempt.id.as_str()));
        assert!(said && !attempt.ways[0].reason.is_empty(), "{attempt:?}");
    }
    let missed: Vec<_> =
        card.attempts.iter().filter(|a| a.outcome == Found::NotRun).map(|a| a.id.as_str()).collect();
    assert_holds(card, &missed);
}

#[test]
fn the_lower_tier_of_root_holds_what_it_says() {
    let test = "the_lower_tier_of_root_holds_what_it_says";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return;
    }
    if !has_lower_tier(test) {
        return;
    }
    let installation = Installation::new();
    create_beside(&installation, small());
    let (card, _) = drill(&installation, &[]);
    assert_holds_beside(&card, &[UNWALLED]);
    assert!(card.recovered);
}

#[test]
fn the_lower_tier_of_an_ordinary_user_holds_what_it_says() {
    let test = "the_lower_tier_of_an_ordinary_user_holds_what_it_says";
    if !has_lower_tier(test) || Reexec::of(test).user(12_345).run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    create_beside(&installation, Limits { file_bytes: Some(64 << 20), ..Limits::default() });
    let (card, _) = drill(&installation, &[]);
    assert_holds_beside(&card, &[UNWALLED, UNWALLED_OF_ONES_OWN]);
    assert!(card.recovered);
}

/// What an agent says, and which names it asks for, reaches a person's terminal without what would draw on it.
#[test]
fn hostile_text_is_shown_without_its_teeth() {
    let installation = Installation::new();
    let says = r"printf 'begin\033]0;owned\007\033[2J\302\233 3A\342\200\256end\n'; exec sleep 1000";
    installation.make_script("box", says);
    installation.ready("box");
    let asks = r"exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT \033]0;x\007.example.com:443 HTTP/1.1\r\n\r\n' >&3; head -c 12 <&3";
    let answer = installation.clawkeep(&["box", "exec", "--", "/bin/bash", "-c", asks]);
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "HTTP/1.1 400");
    let said = wait_until(LONG, "the agent to have spoken", || {
        let said = text(&installation.clawkeep(&["box", "logs"]));
        said.contains("begin").then_some(said)
    });
    assert!(said.contains("end"), "{said:?}");
    let commands: [&[&str]; 6] = [
        &["box", "logs"],
        &["box", "status"],
        &["box", "why"],
        &["box", "policy", "requests"],
        &["list"],
        &["events"],
    ];
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("SKIPPED: hostile_text_is_shown_without_its_teeth needs script, for a terminal");
        return;
    }
    for command in commands {
        // On a terminal: a program that reads it gets a log as it is.
        let words = [&[support::PROGRAM], command].concat().join(" ");
        let mut script = Command::new("script");
        script.args(["-qec", &words, "/dev/null"]).env("CLAWKEEP_HOME", installation.home.root());
        let shown = script.stdin(Stdio::null()).output().unwrap();
        // What the terminal itself adds.
        let said = text(&shown).replace("\r\n", "\n");
        let draws = |c: char| {
            (c.is_control() && c != '\n' && c != '\t')
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert!(!said.is_empty() && !said.contains(draws), "{command:?}: {said:?}");
    }
}

/// There no netlink socket opens at all, so that another neighbour has to show that sockets do.
#[test]
fn the_strict_profile_holds_as_well() {
    let installation = Installation::new();
    let mut request = installation.fake("box", &[], true, Limits::default());
    let Request::Create(create) = &mut request else { panic!("{request:?}") };
    create.strict = true;
    installation.ask(&request).unwrap();
    installation.ready("box");
    let (card, _) = drill(&installation, &["--no-recovery", "--only", "net"]);
    assert!(card.passed() && card.totals.held >= 4, "{card:#?}");
    assert!(card.attempts.iter().any(|attempt| attempt.id == "netlink-audit"));
}

#[test]
fn a_wall_that_is_gone_is_found_and_told_as_worse() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    assert!(drill(&installation, &["--no-recovery"]).0.passed());
    // Somebody on the host shows the sandbox what it must not see.
    let pid = status.gateway.unwrap().pid.to_string();
    let opened = Command::new("nsenter")
        .args(["--target", &pid, "--user", "--mount", "--", "/bin/sh", "-c"])
        .arg("mount -t tmpfs none /run && echo secret >/run/init.sock")
        .output()
        .unwrap();
    assert!(opened.status.success(), "{}", text(&opened));
    let output = installation.clawkeep(&["box", "drill", "--compare", "--no-recovery"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("OPEN     init-socket: "), "{said}");
    assert!(said.contains("\n  worse    init-socket: was held, is open\n"), "{said}");
}

#[test]
fn a_signal_ends_it_and_leaves_nothing_behind() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    installation.exec("box", "echo mine >/sandbox/.profile");
    let mut child = installation
        .command(&["box", "drill", "--only", "state-poisoned"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(LONG, "the poison to be planted", || {
        std::fs::read_to_string(installation.files("box").join(".profile"))
            .is_ok_and(|text| text.contains("LD_PRELOAD"))
            .then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    installation.ready("box");
    let (output, _) = installation.exec("box", "cat /sandbox/.profile; ls -A /sandbox | grep -v fake");
    assert_eq!(output, "mine\n.profile\n");
    assert_nothing_left(&installation);
}

#[test]
fn what_cannot_be_drilled_is_refused() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let output = installation.clawkeep(&["box", "drill", "--only", "no such thing"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("error[no-such-attempt]"), "{}", text(&output));
    installation.ask(&Request::Stop { name: name("box") }).unwrap();
    let output = installation.clawkeep(&["box", "drill"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("error[not-ready]"), "{}", text(&output));
}
