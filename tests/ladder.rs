//! Each rung of the ladder against real processes: the lowest that is enough cures, and nothing is a dead end.

mod support;

use std::os::unix::fs::PermissionsExt;

use clawkeep_daemon::api::{Request, SandboxStatus};
use clawkeep_store::Snapshots;
use support::{CONFIG, Installation, LONG, kill9, name};
use testkit::wait_until;

/// Causes of the journal's entries of this kind, oldest first.
fn journal(installation: &Installation, kind: &str) -> Vec<String> {
    installation
        .events("box")
        .into_iter()
        .filter(|event| event.entry.kind == kind)
        .map(|event| event.entry.cause)
        .collect()
}

/// The rungs that starts were made from, in order, without repetitions.
fn rungs(installation: &Installation) -> Vec<String> {
    let events = installation.events("box");
    let mut rungs: Vec<String> = Vec::new();
    for event in events.into_iter().filter(|event| event.entry.kind == "step") {
        let data = &event.entry.data;
        let launches =
            data["actions"].as_array().unwrap().iter().any(|action| action.get("launch").is_some());
        let rung = data["after"]["ladder"]["rung"].as_str().unwrap().to_owned();
        if launches && rungs.last() != Some(&rung) {
            rungs.push(rung);
        }
    }
    rungs
}

fn write_config(installation: &Installation, text: &str) {
    let path = installation.files("box").join(CONFIG);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    // The agent's user may repair it.
    for (path, mode) in [(path.parent().unwrap(), 0o777), (path.as_path(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn kill_gateway(installation: &Installation) -> u64 {
    let gateway = installation.ready("box").gateway.unwrap();
    kill9(gateway.pid);
    gateway.restarts + 1
}

/// A sandbox whose configuration `{}` has proven itself.
fn proven(installation: &Installation, args: &[&str]) -> SandboxStatus {
    installation.create_fake("box", args);
    write_config(installation, "{}");
    let after = kill_gateway(installation);
    installation.ready_after("box", after);
    let snapshots = Snapshots::of(&installation.home.sandbox(&name("box")));
    wait_until(LONG, "the configuration to be kept as healthy", || snapshots.healthy("config").unwrap());
    installation.ready("box")
}

#[test]
fn a_configuration_that_keeps_it_down_gives_way_to_the_last_healthy_one() {
    let installation = Installation::new();
    proven(&installation, &[]);
    let path = installation.files("box").join(CONFIG);
    for (bad, kept) in [
        ("{\"orders\": \"crash:1\"}", true),
        ("not json at all", true),
        ("{\"orders\": \"exit-0\"}", true),
        // In its place: a directory, nothing, a link.
        ("", false),
    ] {
        let aside = journal(&installation, "config-restored").len();
        if kept {
            write_config(&installation, bad);
        } else {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir(&path).unwrap();
        }
        let after = kill_gateway(&installation);
        let status = installation.ready_after("box", after);
        assert!(!status.safe_mode, "the configuration was enough");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
        let restored = journal(&installation, "config-restored");
        assert_eq!(restored.len(), aside + 1, "{restored:?}");
        let told = restored.last().unwrap();
        match told.split_once("it is kept as ") {
            Some((_, file)) => assert_eq!(std::fs::read_to_string(file).unwrap(), bad),
            None => assert!(!kept && told.contains("moved aside"), "{told}"),
        }
        assert!(status.last_incident.unwrap().what.contains("the last healthy one is back"));
        // Proven again, so that the next fault finds the ladder at its foot.
        wait_until(LONG, "the repaired one to settle", || {
            (installation.status("box").rung == "respawn").then_some(())
        });
    }
    assert_eq!(
        rungs(&installation),
        // What is no file is put back before a start: there is no failure that would have climbed.
        ["respawn", "config", "respawn", "config", "respawn", "config", "respawn"]
    );
}

/// What is no file keeps a start waiting (a named pipe) or fails it: the last healthy one is back before there is one.
#[test]
fn a_configuration_that_is_no_file_is_put_back_before_the_start() {
    let installation = Installation::new();
    proven(&installation, &[]);
    let path = installation.files("box").join(CONFIG);
    for make in ["mkfifo .openclaw/openclaw.json", "mkdir -p .openclaw/openclaw.json/full"] {
        installation.exec("box", &format!("cd /sandbox; rm -f {CONFIG}; {make}"));
        let after = kill_gateway(&installation);
        let status = installation.ready_after("box", after);
        assert_eq!(status.gateway.unwrap().restarts, after, "{make}: no start was lost");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
    }
    let told = journal(&installation, "config-restored");
    assert!(told.len() == 2 && told.iter().all(|it| it.contains("was no regular file")), "{told:?}");
    let aside = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let aside = aside.filter(|entry| entry.file_name().to_string_lossy().contains("displaced"));
    assert_eq!(aside.count(), 2, "nothing of the agent's is deleted");
}

#[test]
fn a_configuration_edited_while_it_restarts_is_tried_before_anything_is_put_back() {
    let installation = Installation::new();
    proven(&installation, &[]);
    write_config(&installation, "{\"orders\": \"crash:1\"}");
    let after = kill_gateway(&installation);
    // The user's own repair, made while the gateway goes down over and over.
    wait_until(LONG, "a failed start with it", || {
        (installation.launches("box").len() as u64 > after + 1).then_some(())
    });
    write_config(&installation, "{\"mine\": 1}");
    installation.ready_after("box", after + 1);
    wait_until(LONG, "it to settle", || (installation.status("box").rung == "respawn").then_some(()));
    let path = installation.files("box").join(CONFIG);
    let now = std::fs::read_to_string(path).unwrap();
    let restored = journal(&installation, "config-restored");
    // Either it was in time, or the bad one was put aside before; what the user wrote last stands in both cases.
    assert_eq!(now, "{\"mine\": 1}", "{restored:?}");
}

#[test]
fn with_nothing_healthy_known_it_comes_up_in_safe_mode_and_says_how_to_leave_it() {
    let installation = Installation::new();
    installation.make_fake("box", &["--on-start", "none"], true);
    installation.ready("box");
    write_config(&installation, "{\"orders\": \"crash:1\"}");
    let after = kill_gateway(&installation);
    let status = installation.ready_after("box", after);
    assert!(status.safe_mode, "{status:?}");
    assert_eq!(rungs(&installation), ["respawn", "clear", "renew", "safe"]);
    let shown = String::from_utf8(installation.clawkeep(&["box", "status"]).stdout).unwrap();
    assert!(shown.contains("clawkeep box gateway restart"), "{shown}");
    // A daemon that is killed adopts it as what it is.
    let pid = status.gateway.unwrap().pid;
    kill9(installation.daemon().daemon.pid.cast_signed());
    let adopted = installation.ready("box");
    assert_eq!((adopted.safe_mode, adopted.gateway.unwrap().pid), (true, pid));
    write_config(&installation, "{}");
    assert!(installation.clawkeep(&["box", "gateway", "restart"]).status.success());
    assert!(!installation.ready("box").safe_mode);
}

#[test]
fn a_lock_that_looks_alive_gives_way_to_thorough_clearing() {
    let installation = Installation::new();
    installation.create_fake("box", &["--lock", "refuse"]);
    // A process that is called a gateway, and a lock that names it: left alone by a look at single locks.
    let mut session = installation
        .command(&["box", "exec", "--", "/bin/bash", "-c", "exec -a gateway sleep 1000000"])
        .spawn()
        .unwrap();
    let forge = "pid=$(pgrep -xf 'gateway 1000000') && start=$(cut -d' ' -f22 /proc/$pid/stat) && \
        for f in /tmp/openclaw-998/gateway.*.lock; do \
        echo \"{\\\"pid\\\":$pid,\\\"startTime\\\":$start}\" > $f; done && cat $f";
    wait_until(LONG, "a forged lock", || {
        let (said, status) = installation.exec("box", forge);
        (status == 0 && said.contains("startTime")).then_some(())
    });
    let after = kill_gateway(&installation);
    installation.ready_after("box", after);
    assert_eq!(rungs(&installation), ["respawn", "clear"]);
    assert!(installation.log("box").contains("[gateway-recovery] moved aside /tmp/openclaw-998"));
    assert!(session.try_wait().unwrap().is_none(), "people's sessions go on");
    session.kill().unwrap();
    session.wait().unwrap();
}

#[test]
fn what_no_rung_cures_is_held_with_a_command_that_leaves_it() {
    let installation = Installation::new();
    installation.make_fake("box", &[], false);
    installation.ready("box");
    write_config(&installation, "{\"orders\": \"crash:1\"}");
    kill_gateway(&installation);
    let held = wait_until(LONG, "it to be held", || {
        let status = installation.status("box");
        if status.phase == "backoff" {
            installation.ask(&Request::Recover { name: name("box") }).unwrap();
        }
        (status.phase == "held").then_some(status)
    });
    assert_eq!(held.held.as_ref().unwrap().command, "clawkeep box recover");
    assert!(held.next_attempt_at.is_some(), "it is tried again without anybody");
    assert!(!installation.clawkeep(&["box", "status"]).status.success());
    assert_eq!(rungs(&installation), ["respawn", "clear", "renew", "agent"]);
    // The sandbox is there: a person can look and repair.
    let (said, status) = installation.exec("box", &format!("echo '{{}}' > {CONFIG}; echo done"));
    assert_eq!((said.as_str(), status), ("done\n", 0));
    assert!(installation.clawkeep(&["box", "recover"]).status.success());
    assert_eq!(installation.ready("box").rung, "respawn");
}
