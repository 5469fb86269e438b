//! The drill on a live sandbox: every wall holds, before and after a recovery, as root and as an ordinary user;
//! and it notices when one does not.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use clawkeep_daemon::api::Request;
use clawkeep_drill::{Outcome as Found, Scorecard};
use clawkeep_isolation::Limits;
use support::{Installation, LONG, name};
use testkit::{Outcome, Reexec, wait_until};

/// Few enough that filling them takes no time.
fn small() -> Limits {
    Limits { memory_bytes: Some(256 << 20), pids: Some(200), cpu_milli: None, file_bytes: Some(64 << 20) }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
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
    assert!(card.totals.held >= 190, "{:?}", card.totals);
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
    let not_run: Vec<_> = ["fork-bomb", "eat-memory"]
        .into_iter()
        .filter(|id| card.attempts.iter().any(|a| a.id == *id && a.outcome == Found::NotRun))
        .collect();
    assert_holds(&card, &not_run);
    assert_nothing_left(&installation);
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
    let opened = std::process::Command::new("nsenter")
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
