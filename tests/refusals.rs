//! What a user sees when it cannot be done: what is wrong, the next command, a non-zero exit, nothing half-made.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use clawkeep_daemon::api::Request;
use support::{Installation, LONG, PROGRAM, kill9, name};
use testkit::{Leftovers, Outcome, Reexec, wait_until};

fn onboard(installation: &Installation) -> Command {
    installation.command(&["onboard", "--non-interactive"])
}

/// It failed with this code, said what to do next, and left no sandbox and no half bundle.
fn assert_refused(installation: &Installation, output: &Output, code: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains(&format!("error[{code}]")), "not {code}: {text}");
    assert!(text.contains("next: "), "no next step: {text}");
    let there = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(there(&installation.home.sandboxes()), Vec::<String>::new());
    let bundles = there(&installation.home.bundles());
    assert!(
        bundles.iter().all(|name| !name.contains("staging") && !name.starts_with("openclaw-")),
        "{bundles:?}"
    );
}

#[test]
fn without_npm_it_names_the_command_that_installs_it() {
    let installation = Installation::new();
    let output = onboard(&installation).env("PATH", installation.scratch()).output().unwrap();
    assert_refused(&installation, &output, "npm-missing");
    assert!(String::from_utf8_lossy(&output.stderr).contains("apt-get install"));
}

#[test]
fn offline_it_says_so() {
    let installation = Installation::new();
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: offline_it_says_so needs root to take the network away");
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--", PROGRAM, "onboard", "--non-interactive"])
        .env("CLAWKEEP_HOME", installation.home.root())
        .output()
        .unwrap();
    assert_refused(&installation, &output, "offline");
}

#[test]
fn a_full_disk_is_named_and_nothing_half_is_left() {
    if Reexec::of("a_full_disk_is_named_and_nothing_half_is_left").private_mounts().run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs"])
        .arg(installation.home.root())
        .status()
        .unwrap();
    assert!(mounted.success());
    let output = onboard(&installation).output().unwrap();
    assert_refused(&installation, &output, "disk-full");
    // What comes after this test looks for what it left behind.
    drop(installation.clawkeep(&["daemon", "--home", installation.home.root().to_str().unwrap(), "--stop"]));
    let unmounted = Command::new("umount").arg("--lazy").arg(installation.home.root()).status().unwrap();
    assert!(unmounted.success());
}

#[test]
fn a_home_that_is_not_ours_is_refused() {
    if Reexec::of("a_home_that_is_not_ours_is_refused").user(12_345).run() != Outcome::Inside {
        return;
    }
    let output = Command::new(PROGRAM)
        .args(["onboard", "--non-interactive"])
        .env("CLAWKEEP_HOME", "/usr/clawkeep")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error[") && text.contains("next: ") && text.contains("/usr"), "{text}");
}

#[test]
fn a_taken_port_and_a_taken_name_are_told_apart() {
    let installation = Installation::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let bundle = installation.fake_bundle();
    let args = |name: &'static str, port: &str| -> Vec<String> {
        let words = [
            "onboard",
            "--non-interactive",
            "--name",
            name,
            "--agent",
            "command",
            "--node-guards",
            "--bundle",
            bundle.to_str().unwrap(),
            "--health-url",
            "http://127.0.0.1:18789/readyz",
            "--dashboard-port",
            port,
            "--",
            "/opt/clawkeep/agent/fake-gateway",
        ];
        words.map(str::to_owned).into()
    };
    let run = |args: Vec<String>| installation.clawkeep(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let output = run(args("box", &port));
    assert_refused(&installation, &output, "port-taken");
    drop(taken);
    let output = run(args("box", &port));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("rehearsal"), "{text}");
    let before = installation.status("box");
    let output = run(args("box", &port));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("error[name-taken]"), "{text}");
    assert_eq!(installation.status("box").gateway.unwrap().pid, before.gateway.unwrap().pid);
    let output = installation.clawkeep(&["nobody", "connect", "--probe-only"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("error[no-such-sandbox]") && text.contains("box"),
        "{text}"
    );
}

/// How many user namespaces may be made in the one that this test is in.
fn allow_user_namespaces(most: u32) {
    std::fs::write("/proc/sys/user/max_user_namespaces", most.to_string()).unwrap();
}

#[test]
fn where_user_namespaces_are_refused_the_cause_and_the_command_are_named_and_nothing_is_left() {
    let test = "where_user_namespaces_are_refused_the_cause_and_the_command_are_named_and_nothing_is_left";
    if Reexec::of(test).user_namespace().run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    allow_user_namespaces(0);
    let output =
        onboard(&installation).args(["--agent", "command", "--", "/bin/sleep", "1000"]).output().unwrap();
    assert_refused(&installation, &output, "host-unfit");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("userns: switched off: user.max_user_namespaces is 0"), "{said}");
    assert!(said.contains("echo user.max_user_namespaces=15000 | sudo tee -a /etc/sysctl.d/"), "{said}");
    assert!(!installation.home.socket().exists(), "it started a daemon");

    let output = installation.clawkeep(&["doctor"]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("\u{2716} userns        switched off: user.max_user_namespaces is 0"), "{told}");
    assert!(told.contains("could not be set up: create namespaces: No space left on device"), "{told}");
    let output = installation.clawkeep(&["doctor", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &told["able"], &told["level"]),
        (Some(1), &false.into(), &serde_json::Value::Null)
    );
}

/// What could be made once and cannot be made again is not made weaker: it waits, and says for what.
#[test]
fn a_sandbox_that_cannot_be_made_again_says_why_and_is_made_again_when_it_can() {
    let test = "a_sandbox_that_cannot_be_made_again_says_why_and_is_made_again_when_it_can";
    if Reexec::of(test).user_namespace().run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    allow_user_namespaces(0);
    let gateway = before.gateway.as_ref().unwrap().pid;
    kill9(testkit::processes::process(gateway).unwrap().parent);
    let waiting = wait_until(LONG, "the cause to be told", || {
        let status = installation.status("box");
        let told = status.last_incident.as_ref().is_some_and(|last| last.what.contains("create namespaces"));
        told.then_some(status)
    });
    let what = waiting.last_incident.unwrap().what;
    for named in [
        "because of userns: switched off: user.max_user_namespaces is 0",
        "echo user.max_user_namespaces=15000 | sudo tee",
    ] {
        assert!(what.contains(named), "{what}");
    }
    assert!(waiting.gateway.is_none() && waiting.phase != "ready", "{}", waiting.phase);
    allow_user_namespaces(1000);
    // It would try again by itself, after ten minutes at the latest: it may have come as far as being held.
    installation.ask(&Request::Recover { name: name("box") }).unwrap();
    let after = installation.ready_after("box", 1);
    assert_eq!(after.level.unwrap().namespaces.len(), 7);
}

#[test]
fn doctor_proves_that_a_sandbox_can_be_made_and_leaves_nothing() {
    let leftovers = Leftovers::before();
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let doctor = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("doctor").args(args).env("CLAWKEEP_HOME", &state).output().unwrap()
    };
    let output = doctor(&[]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("sandbox       made, /bin/true run behind every wall in"), "{told}");
    assert!(told.contains("walls         Landlock ABI"), "{told}");
    let told: serde_json::Value = serde_json::from_slice(&doctor(&["--json"]).stdout).unwrap();
    assert_eq!(
        (&told["schema"], &told["able"], &told["level"]["no_new_privs"]),
        (&1.into(), &true.into(), &true.into())
    );
    assert!(!state.exists(), "looking makes nothing");
    leftovers.assert_none_new(LONG);
}

/// A /proc that hides what is not one's own hides a sandbox's first process from the user that made it as well.
#[test]
fn an_ordinary_user_to_whom_proc_hides_others_can_have_a_sandbox_too() {
    let test = "an_ordinary_user_to_whom_proc_hides_others_can_have_a_sandbox_too";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root to mount a /proc");
        return;
    }
    if Reexec::of(test).private_mounts().run() != Outcome::Inside {
        return;
    }
    let mounted = Command::new("mount").args(["-t", "proc", "-o", "hidepid=2", "proc", "/proc"]).status();
    assert!(mounted.unwrap().success());
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(12_345), Some(12_345)).unwrap();
    let user = "--reuid 12345 --regid 12345 --clear-groups --inh-caps=-all --";
    let output = Command::new("setpriv")
        .args(user.split(' '))
        .args([PROGRAM, "doctor"])
        .env("TMPDIR", dir.path())
        .env("CLAWKEEP_HOME", dir.path().join("state"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("run behind every wall"), "{told}");
}

/// The same life without any privilege: one user, one mapped id, everything else alike.
#[test]
fn an_ordinary_user_gets_the_same_sandbox_and_the_same_healing() {
    if Reexec::of("an_ordinary_user_gets_the_same_sandbox_and_the_same_healing").user(12_345).run()
        != Outcome::Inside
    {
        return;
    }
    let leftovers = Leftovers::before();
    {
        let installation = Installation::new();
        let before = installation.create_fake("box", &[]);
        assert!(
            before.guards.iter().all(|guard| guard.critical <= (guard.state == "verified")),
            "{:?}",
            before.guards
        );
        let receipt = before.receipt.as_ref().unwrap();
        assert_eq!((receipt.caps.as_str(), receipt.namespaces.len()), ("0x0", 7));
        let (output, code) =
            installation.exec("box", "id -u; rm -f /tmp/nemoclaw-ciao-network-guard.js; touch /sandbox/f");
        assert_eq!((output.as_str(), code), ("998\n", 0));
        wait_until(LONG, "the guard that the agent removed to be back", || {
            let (output, _) = installation.exec("box", "stat -c %a /tmp/nemoclaw-ciao-network-guard.js");
            (output == "444\n").then_some(())
        });
        kill9(before.gateway.as_ref().unwrap().pid);
        let after = installation.ready_after("box", 1);
        let daemon = installation.daemon().daemon.pid;
        kill9(daemon as i32);
        wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
        let adopted = installation.ready("box");
        assert_eq!(adopted.gateway.unwrap().pid, after.gateway.unwrap().pid);
        installation.exec(
            "box",
            "find /tmp -mindepth 1 -maxdepth 1 ! -name gateway.log -exec rm -rf {} +; kill -9 -1",
        );
        installation.ready_after("box", 2);
        for launch in installation.launches("box") {
            assert!(launch.receipt && launch.guards.len() >= 3, "{launch:?}");
        }
        // Rights that the agent took from itself do not keep its files from being removed.
        installation.exec(
            "box",
            "mkdir -p /sandbox/locked/deep && touch /sandbox/locked/deep/f && chmod 000 /sandbox/locked",
        );
        installation.ask(&Request::Destroy { name: name("box") }).unwrap();
        assert!(!installation.home.sandbox(&name("box")).root().exists());
    }
    leftovers.assert_none_new(LONG);
}
