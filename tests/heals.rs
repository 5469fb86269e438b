//! What a user sees when things break: it comes back guarded, by itself. With the fake gateway, which reports
//! what it was given at each start; `openclaw.rs` does the same with the real one.

mod support;

use std::os::unix::fs::PermissionsExt;

use clawkeep_daemon::api::{Rehearsal, Request, Value};
use clawkeep_isolation::AGENT_ID;
use support::{Installation, LONG, kill9, name};
use testkit::{Outcome, Reexec, wait_until};

/// Every launch so far had every guard of the plan, by its bytes, and a receipt.
fn assert_all_guarded(installation: &Installation, sandbox: &str) {
    let guards = installation.status(sandbox).guards;
    let launches = installation.launches(sandbox);
    assert!(!launches.is_empty() && !guards.is_empty());
    for launch in &launches {
        assert!(launch.receipt, "a launch without a receipt: {launch:?}");
        let loaded: Vec<_> = launch.guards.iter().map(|guard| (guard.name.clone(), guard.digest)).collect();
        let wanted: Vec<_> = guards.iter().map(|guard| (guard.name.clone(), guard.digest)).collect();
        assert_eq!(loaded, wanted, "a launch with other guards");
        assert!(!launch.env.contains_key("INVOCATION_ID"));
    }
}

#[test]
fn a_killed_gateway_is_back_and_so_is_a_wiped_one() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    assert!(status.guards.iter().all(|guard| guard.state == "verified"), "{:?}", status.guards);
    let receipt = status.receipt.expect("a receipt");
    assert_eq!(receipt.caps, "0x0");
    for failure in [Rehearsal::KillGateway, Rehearsal::WipeTmp, Rehearsal::KillGateway] {
        let done = installation.ask(&Request::Rehearse { name: name("box"), failure }).unwrap();
        assert!(matches!(done, Value::Rehearsed { .. }), "{done:?}");
    }
    assert_eq!(installation.launches("box").len(), 4);
    assert_all_guarded(&installation, "box");
    let (output, status) = installation.exec(
        "box",
        "ls /tmp; ls -ln /tmp/nemoclaw-proxy-env.sh; sh -c '. /tmp/nemoclaw-proxy-env.sh; echo $HTTPS_PROXY'",
    );
    assert_eq!(status, 0, "{output}");
    assert!(output.contains("nemoclaw-ciao-network-guard.js"), "{output}");
    assert!(output.contains("-r--r--r-- 1 0 0") || output.contains("-r--r--r-- 1 998 998"), "{output}");
    assert!(output.contains("http://127.0.0.1:3128"), "{output}");
}

#[test]
fn tampered_guard_files_are_back_at_once_and_nothing_hostile_runs() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    let file = "/tmp/nemoclaw-ciao-network-guard.js";
    let (intact, _) = installation.exec("box", &format!("sha256sum < {file}"));
    for (what, tamper) in [
        ("removed", "rm -f $F"),
        ("replaced by a symlink", "ln -sfn /sandbox/evil.js $F"),
        ("replaced by a directory", "rm -rf $F; mkdir $F; mkdir $F/deep"),
        (
            "replaced by other bytes",
            "rm -f $F; echo 'require(\"fs\").writeFileSync(\"/sandbox/pwned\",\"\")' > $F; chmod 666 $F",
        ),
        ("hard-linked", "ln -f $F $F.second"),
        ("made writable", "chmod 0666 $F"),
        ("wiped with all of /tmp", "find $T -mindepth 1 -maxdepth 1 ! -name gateway.log -exec rm -rf {} +"),
    ] {
        tamper_with(&installation, &before, tamper);
        wait_until(LONG, &format!("the guard to be back after it was {what}"), || {
            let (now, _) =
                installation.exec("box", &format!("sha256sum < {file}; stat -c '%a %h %F' {file}"));
            (now == format!("{intact}444 1 regular file\n")).then_some(())
        });
    }
    let after = installation.status("box");
    assert_eq!(after.gateway.unwrap().pid, before.gateway.unwrap().pid, "the running gateway was left alone");
    assert!(!installation.files("box").join("pwned").exists());
    let log = installation.log("box");
    assert!(
        log.contains("[gateway-recovery] WARNING: /tmp/nemoclaw-ciao-network-guard.js missing or unsafe - restoring library guards from packaged preloads"),
        "{log}"
    );
}

/// An ordinary user's agent owns its `/tmp`, and so everything in it.
#[test]
fn the_link_to_the_log_is_back_whoever_replaced_it() {
    if Reexec::of("the_link_to_the_log_is_back_whoever_replaced_it").user(12_345).run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    for tamper in [
        "rm $T/gateway.log",
        "ln -sfn /sandbox/forged $T/gateway.log",
        "rm $T/gateway.log; echo forged > $T/gateway.log",
        "rm $T/gateway.log; mkdir $T/gateway.log",
    ] {
        tamper_with(&installation, &before, tamper);
        wait_until(LONG, &format!("the link to be back after {tamper}"), || {
            let (now, _) =
                installation.exec("box", "readlink /tmp/gateway.log && head -c 1 /tmp/gateway.log");
            now.starts_with("/run/gateway.log\n").then_some(())
        });
    }
    let log = installation.log("box");
    assert!(log.contains("/tmp/gateway.log missing or unsafe - linking the gateway's log again"), "{log}");
    assert_eq!(installation.status("box").gateway.unwrap().pid, before.gateway.unwrap().pid);
}

/// Run a script that finds the sandbox's `/tmp` in `$T` and a guard's file in `$F`. Where there is a root, the
/// files are the sandbox's root's in a sticky directory and the agent cannot touch them at all: the tampering
/// comes from the host's root, who has more rights than any agent. Rootless the agent does it itself.
fn tamper_with(installation: &Installation, status: &clawkeep_daemon::api::SandboxStatus, script: &str) {
    let with = |tmp: &str| format!("T={tmp}; F=$T/nemoclaw-ciao-network-guard.js; {script}");
    if rustix::process::geteuid().is_root() {
        let (output, code) = installation.exec("box", &with("/tmp"));
        assert!(code != 0 || script.contains("find"), "the agent can do this: {output}");
        let tmp = format!("/proc/{}/root/tmp", status.gateway.as_ref().unwrap().pid);
        // Between two commands of the script the file may be back already: that is what is tested.
        wait_until(LONG, "the tampering to work", || {
            let output = std::process::Command::new("/bin/sh").args(["-ec", &with(&tmp)]).output().unwrap();
            output.status.success().then_some(())
        });
    } else {
        wait_until(LONG, "the tampering to work", || {
            let (_, code) = installation.exec("box", &format!("set -e; {}", with("/tmp")));
            (code == 0).then_some(())
        });
    }
}

#[test]
fn a_stale_lock_does_not_keep_it_from_starting() {
    let installation = Installation::new();
    installation.create_fake("box", &["--lock", "refuse"]);
    for (round, lock) in [
        // A pid that is gone; our own init's pid, recycled; a torn one.
        r#"{"pid":999999,"createdAt":"x","configPath":"/x","startTime":1}"#,
        r#"{"pid":1,"createdAt":"x","configPath":"/x","startTime":1}"#,
        r#"{"pid":"#,
    ]
    .iter()
    .enumerate()
    {
        // Written over the live one, so that it is what the next start finds.
        let script =
            format!("for f in /tmp/openclaw-{AGENT_ID}/gateway.*.lock; do printf '%s' '{lock}' > $f; done");
        let (output, status) = installation.exec("box", &script);
        assert_eq!(status, 0, "{output}");
        let pid = installation.status("box").gateway.unwrap().pid;
        kill9(pid);
        installation.ready_after("box", round as u64 + 1);
    }
    assert!(installation.log("box").contains("removed stale lock"), "{}", installation.log("box"));
    assert_all_guarded(&installation, "box");
}

#[test]
fn a_gateway_that_hangs_or_leaves_orphans_is_replaced() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    let port = status.dashboard_port.unwrap();
    for (round, order) in ["crash", "exit-0", "exit-78", "fork,crash:1", "leave-lock,crash:1", "deaf", "hang"]
        .iter()
        .enumerate()
    {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        // It may die before it answers.
        let _ = testkit::http::post(stream, &format!("/fake/{order}"), b"");
        installation.ready_after("box", round as u64 + 1);
    }
    assert_all_guarded(&installation, "box");
    assert_eq!(installation.launches("box").len(), 8, "one start for each failure");
}

#[test]
fn a_killed_daemon_loses_nothing_and_its_successor_restarts_nothing() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    let pid = before.gateway.as_ref().unwrap().pid;
    let mut daemons = vec![installation.daemon().daemon.pid];
    for _ in 0..5 {
        let daemon = *daemons.last().unwrap();
        kill9(daemon as i32);
        let next = wait_until(LONG, "the next daemon", || {
            let status = installation.daemon().daemon.pid;
            (status != daemon).then_some(status)
        });
        assert!(!daemons.contains(&next));
        daemons.push(next);
        let after = installation.ready("box");
        assert_eq!(after.gateway.as_ref().unwrap().pid, pid, "the gateway went on");
        assert_eq!(after.receipt.as_ref().unwrap().digest, before.receipt.as_ref().unwrap().digest);
    }
    // Both, parent and daemon: the next command starts them.
    let daemon = *daemons.last().unwrap();
    kill9(installation.parent_of(daemon));
    kill9(daemon as i32);
    let output = installation.clawkeep(&["box", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["gateway"]["pid"], pid, "{status}");
    // And supervision goes on in the new one.
    installation.ready("box");
    kill9(pid);
    installation.ready_after("box", 1);
    // What died while nobody looked is found dead.
    let daemon = installation.daemon().daemon.pid;
    let pid = installation.status("box").gateway.unwrap().pid;
    kill9(installation.parent_of(daemon));
    kill9(daemon as i32);
    kill9(pid);
    installation.ready_after("box", 2);
    assert_eq!(installation.launches("box").len(), 3);
    assert_all_guarded(&installation, "box");
}

#[test]
fn a_lost_sandbox_is_made_anew_and_a_damaged_package_is_repaired() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    // The first process of the sandbox, and with it everything in it: what a deleted pod is elsewhere.
    let init = installation.parent_of(before.gateway.as_ref().unwrap().pid as u32);
    kill9(init);
    installation.ready_after("box", 1);
    // A guard of the package on the host altered: no launch with it, ever; it is repaired from the program.
    let package = std::fs::read_dir(installation.home.guards()).unwrap().flatten().next().unwrap().path();
    let guard = package.join("sandbox-safety-net.js");
    std::fs::set_permissions(&guard, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&guard, "// hostile").unwrap();
    kill9(installation.status("box").gateway.unwrap().pid);
    installation.ready_after("box", 2);
    assert!(
        installation.log("box").contains("refusing unguarded gateway relaunch"),
        "{}",
        installation.log("box")
    );
    assert_all_guarded(&installation, "box");
}

#[test]
fn a_sandbox_whose_mounts_were_damaged_from_outside_is_made_anew() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]).gateway.unwrap().pid;
    let init = installation.parent_of(before as u32);
    // What is mounted on a file goes with the file, when somebody in another mount namespace removes that.
    std::fs::remove_file(format!("/proc/{before}/root/run/gateway.log")).unwrap();
    kill9(before);
    let after = installation.ready_after("box", 1).gateway.unwrap().pid;
    assert_ne!(installation.parent_of(after as u32), init, "another sandbox");
    assert_eq!(installation.exec("box", "test -s /tmp/gateway.log").1, 0);
    let mut refusals = installation.events("box").into_iter().filter(|event| event.entry.kind == "refused");
    assert!(refusals.any(|event| event.entry.cause.contains("/run/gateway.log")));
    assert_all_guarded(&installation, "box");
}

#[test]
fn a_stopped_one_stays_stopped_and_a_destroyed_one_is_gone() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    installation.create_fake("other", &[]);
    let ports = [installation.status("box").dashboard_port, installation.status("other").dashboard_port];
    assert_ne!(ports[0], ports[1]);
    installation.ask(&Request::Stop { name: name("box") }).unwrap();
    let daemon = installation.daemon().daemon.pid;
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    assert_eq!(installation.status("box").phase, "stopped");
    installation.ready("other");
    installation.ask(&Request::Start { name: name("box") }).unwrap();
    installation.ready("box");
    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    let failure = installation.ask(&Request::Sandbox { name: Some(name("box")) }).unwrap_err();
    assert_eq!((failure.code.as_str(), failure.next.as_deref()), ("no-such-sandbox", Some("clawkeep list")));
    assert!(!installation.home.sandbox(&name("box")).root().exists());
    installation.ready("other");
}

#[test]
fn what_cannot_be_reached_is_ended_and_there_is_never_a_second_one() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    let pid = before.gateway.as_ref().unwrap().pid;
    let init = installation.parent_of(pid as u32);

    // Its name lost while no daemon looks: the next one finds it by its lock and ends it.
    let daemon = installation.daemon().daemon.pid;
    kill9(installation.parent_of(daemon));
    std::fs::remove_file(installation.home.sandbox(&name("box")).run().join("init.sock")).unwrap();
    kill9(daemon as i32);
    let after = installation.ready_after("box", 1);
    assert_ne!(after.gateway.as_ref().unwrap().pid, pid);
    wait_until(LONG, "the lost sandbox to be gone", || (!is_alive(init)).then_some(()));

    // Its first process stopped: nothing in it can be done any more, and it says nothing of itself.
    let init = installation.parent_of(after.gateway.as_ref().unwrap().pid as u32);
    let stop = rustix::process::Signal::STOP;
    rustix::process::kill_process(rustix::process::Pid::from_raw(init).unwrap(), stop).unwrap();
    kill9(after.gateway.as_ref().unwrap().pid);
    installation.ready_after("box", 2);
    wait_until(LONG, "the stopped sandbox to be gone", || (!is_alive(init)).then_some(()));
    assert_all_guarded(&installation, "box");
}

fn is_alive(pid: i32) -> bool {
    testkit::processes::process(pid).is_some_and(|process| process.state != 'Z')
}

/// Who answers on the gateway's port must be the gateway.
#[test]
fn a_session_that_takes_the_port_does_not_pass_for_the_gateway() {
    let installation = Installation::new();
    // A gateway that never listens, and a session that does in its place.
    let status = installation.create_fake("box", &[]);
    let agent = clawkeep_daemon::api::AgentChoice::Command {
        argv: vec!["/usr/bin/sleep".into(), "1000000".into()],
        health_url: Some("http://127.0.0.1:18789/readyz".into()),
        config: None,
        safe_mode: false,
        node_guards: false,
        bundle: Some(installation.fake_bundle()),
        env: Default::default(),
    };
    assert_eq!(status.phase, "ready", "the gateway's own answer counts");
    let create = clawkeep_daemon::api::Create {
        name: name("squat"),
        agent,
        route: None,
        strict: false,
        tier: Default::default(),
        settle_secs: Some(1),
        dashboard_port: Some(testkit::free_port()),
        limits: Default::default(),
        image: None,
        mounts: vec![],
        policy: Default::default(),
    };
    installation.ask(&Request::Create(Box::new(create))).unwrap();
    wait_until(LONG, "the sandbox to be there", || {
        (installation.status("squat").phase == "starting").then_some(())
    });
    let mut squatter = installation
        .command(&["squat", "exec", "--", "/opt/clawkeep/agent/fake-gateway", "--lock", "off"])
        .spawn()
        .unwrap();
    wait_until(LONG, "the squatter to be found", || {
        assert_ne!(installation.status("squat").phase, "ready");
        let log = std::fs::read_to_string(installation.home.run().join("daemon.log")).unwrap();
        log.contains("port 18789 was taken by a process of a session").then_some(())
    });
    assert!(!squatter.wait().unwrap().success(), "it was ended");
}

/// What the sandbox has mounted is what is verified: not what stands on the host under the same name by now.
#[test]
fn an_altered_guard_is_never_executed_after_an_adoption_either() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    let package = std::fs::read_dir(installation.home.guards()).unwrap().flatten().next().unwrap().path();
    let guard = package.join("sandbox-safety-net.js");
    std::fs::set_permissions(&guard, std::fs::Permissions::from_mode(0o644)).unwrap();
    let hostile = [std::fs::read(&guard).unwrap(), b"\n// hostile".to_vec()].concat();
    std::fs::write(&guard, hostile).unwrap();
    std::fs::set_permissions(&guard, std::fs::Permissions::from_mode(0o444)).unwrap();
    let daemon = installation.daemon().daemon.pid;
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    kill9(before.gateway.as_ref().unwrap().pid);
    let after = installation.ready_after("box", 1);
    assert!(after.held.is_none(), "{:?}", after.held);
    assert_all_guarded(&installation, "box");
}

#[test]
fn a_guarded_command_without_a_health_address_is_ready_once_its_guards_are() {
    let installation = Installation::new();
    let output = installation.clawkeep(&[
        "onboard",
        "--non-interactive",
        "--name",
        "box",
        "--agent",
        "command",
        "--node-guards",
        "--bundle",
        installation.fake_bundle().to_str().unwrap(),
        "--",
        "/opt/clawkeep/agent/fake-gateway",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(installation.launches("box").len() >= 3);
    assert_all_guarded(&installation, "box");
}

#[test]
fn whoever_waits_for_a_session_that_is_no_more_is_told_so() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let attach = Request::Attach { name: name("box"), session: "session-that-never-was".into() };
    let failure = installation.ask(&attach).unwrap_err();
    assert_eq!(failure.code, "sandbox-gone");
    assert_eq!(failure.next.as_deref(), Some("clawkeep box status"));
}
