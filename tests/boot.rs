//! What a user sees of a boot: the service is installed once, and from then on the sandboxes are back after
//! every reboot and every power cut, guarded, with their files, without a command.

#[path = "support/container.rs"]
mod container;
mod support;

use std::fs;

use clawkeep_daemon::api::{AgentChoice, Create, Request, SandboxStatus};
use container::{BUNDLE, Container};
use support::{Installation, LONG, name};
use testkit::{fake, wait_until};

/// Variables that a service manager gives its services (systemd.exec(5)); an agent must not know of it.
const OF_A_MANAGER: [&str; 9] = [
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Every launch so far had all of its guards, and nothing of the service manager's.
fn assert_all_guarded(container: &Container, status: &SandboxStatus, launches: usize) {
    assert!(!status.guards.is_empty() && status.guards.iter().all(|guard| guard.state == "verified"));
    assert_eq!(status.receipt.as_ref().unwrap().caps, "0x0");
    let report = fake::launches(&container.files("box").join("fake-report.jsonl"));
    assert_eq!(report.len(), launches, "{report:#?}");
    for launch in &report {
        assert!(launch.receipt && launch.alone, "{launch:?}");
        let loaded: Vec<_> = launch.guards.iter().map(|guard| guard.digest).collect();
        assert_eq!(loaded, status.guards.iter().map(|guard| guard.digest).collect::<Vec<_>>());
        for variable in OF_A_MANAGER {
            assert!(!launch.env.contains_key(variable), "{variable} reached the agent");
        }
    }
}

fn pid(status: &SandboxStatus) -> i32 {
    status.gateway.as_ref().unwrap().pid
}

#[test]
fn after_a_reboot_and_a_power_cut_everything_is_back_without_a_command() {
    let Some(mut container) = Container::new() else { return };
    // A watchdog that a test can wait for.
    let drop_in = container.path("etc/systemd/system/clawkeep.service.d/soon.conf");
    fs::write(drop_in, "[Service]\nWatchdogSec=3\n").unwrap();
    container.boot();

    // Without the service any command starts a daemon; the service takes its place, and the agent goes on.
    let agent = "/opt/clawkeep/agent/fake-gateway";
    let onboard = |name: &str, port: &str| {
        let health = ["--node-guards", "--bundle", BUNDLE, "--health-url", "http://127.0.0.1:18789/readyz"];
        let all = [&["clawkeep", "onboard", "--non-interactive", "--agent", "command"][..], &health];
        let line = [&all.concat()[..], &["--dashboard-port", port, "--name", name, "--", agent]].concat();
        container.must(&line);
    };
    onboard("box", "18789");
    onboard("idle", "18790");
    container.must(&["clawkeep", "idle", "stop"]);
    container.must(&["clawkeep", "box", "exec", "--", "sh", "-c", "echo of before > /sandbox/note"]);
    assert_eq!(container.run(&["clawkeep", "service", "status"]).status.code(), Some(1));
    let (before, on_demand) = (container.ready("box"), container.daemon().daemon);
    let launches = fake::launches(&container.files("box").join("fake-report.jsonl")).len();
    assert!(!on_demand.managed);
    let said = container.must(&["clawkeep", "service", "install"]);
    assert!(said.contains("installed: the daemon runs now and starts at boot"), "{said}");
    assert_eq!(pid(&container.ready("box")), pid(&before), "the agent was restarted");
    assert!(container.daemon().daemon.managed);
    wait_until(LONG, "the daemon of before and its parent to be gone", || {
        (container.daemons().len() == 1).then_some(())
    });
    let said = container.must(&["clawkeep", "service", "install"]);
    assert!(said.contains("was installed already"), "{said}");
    let shown = container.must(&["clawkeep", "service", "status"]);
    assert!(shown.contains("installed, enabled, active since "), "{shown}");

    // Killed or hung, the next one adopts; commands never start a second one beside it.
    for signal in ["KILL", "STOP"] {
        let old = container.daemons().pop().unwrap();
        container.must(&["systemctl", "kill", "--kill-who=main", "--signal", signal, "clawkeep"]);
        assert!(old.ends_within(LONG), "{signal}: it goes on");
        container.must(&["clawkeep", "list"]);
        assert_eq!(pid(&container.ready("box")), pid(&before), "{signal}: the agent was restarted");
        assert_eq!(container.daemons().len(), 1);
        assert!(container.daemon().daemon.managed, "{signal}: a daemon beside the service");
    }
    assert_all_guarded(&container, &container.ready("box"), launches);

    for (round, how) in ["reboot", "power cut"].into_iter().enumerate() {
        container.must(&["sh", "-c", "echo > /run/mark; echo > /tmp/mark"]);
        if how == "reboot" {
            container.shut_down_for_reboot();
        } else {
            container.cut_power();
        }
        assert!(container.daemons().is_empty());
        container.boot();
        let status = container.ready("box");
        container.must(&["sh", "-c", "! test -e /run/mark && ! test -e /tmp/mark"]);
        assert_all_guarded(&container, &status, launches + round + 1);
        assert_eq!(fs::read_to_string(container.files("box").join("note")).unwrap(), "of before\n");
        let idle = container.daemon().sandboxes.into_iter().find(|found| found.name == name("idle")).unwrap();
        assert_eq!((idle.phase.as_str(), idle.should_run), ("stopped", false), "{how}");
        let agent = container.must(&["clawkeep", "box", "exec", "--", "cat", "/proc/self/oom_score_adj"]);
        assert_eq!(agent, "0\n");
        wait_until(LONG, "the service to be active", || {
            container.run(&["clawkeep", "service", "status"]).status.success().then_some(())
        });
    }

    // The unit away, the agent goes on, supervised.
    let before = container.ready("box");
    let said = container.must(&["clawkeep", "service", "uninstall"]);
    assert!(said.contains("the sandboxes go on"), "{said}");
    assert!(!container.path("etc/systemd/system/clawkeep.service").exists());
    assert_eq!(pid(&container.ready("box")), pid(&before));
    assert!(!container.daemon().daemon.managed);
    container.must(&["clawkeep", "service", "uninstall"]);
}

#[test]
fn a_unit_that_is_not_ours_is_left_alone() {
    let Some(mut container) = Container::new() else { return };
    container.boot();
    let unit = container.path("etc/systemd/system/clawkeep.service");
    let theirs = "[Service]\nExecStart=/bin/true\n";
    for verb in ["install", "uninstall"] {
        fs::write(&unit, theirs).unwrap();
        let output = container.run(&["clawkeep", "service", verb]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error[unit-foreign]: ") && said.contains("next: mv "), "{said}");
        assert_eq!(fs::read_to_string(&unit).unwrap(), theirs);
        fs::remove_file(&unit).unwrap();
        container.must(&["systemctl", "mask", "clawkeep"]);
        let output = container.run(&["clawkeep", "service", verb]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("next: systemctl unmask clawkeep.service"), "{said}");
        container.must(&["systemctl", "unmask", "clawkeep"]);
    }
    // Another home's unit as well.
    container.must(&["clawkeep", "service", "install"]);
    let ours = fs::read_to_string(&unit).unwrap();
    for verb in ["install", "uninstall"] {
        let output = container.run(&["env", "CLAWKEEP_HOME=/var/lib/other", "clawkeep", "service", verb]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("error[unit-of-another-home]: "), "{said}");
        assert!(
            said.contains("next: CLAWKEEP_HOME='/var/lib/clawkeep' clawkeep service uninstall"),
            "{said}"
        );
    }
    assert_eq!(fs::read_to_string(&unit).unwrap(), ours);
    assert!(ours.contains("KillMode=process") && ours.contains("Type=notify"));
    container.must(&[
        "systemd-analyze",
        "verify",
        "--recursive-errors=no",
        "/etc/systemd/system/clawkeep.service",
    ]);
}

/// A sandbox whose agent does nothing.
fn sleeper(installation: &Installation, sandbox: &str) {
    let agent = AgentChoice::Command {
        argv: vec!["/usr/bin/sleep".into(), "infinity".into()],
        health_url: None,
        node_guards: false,
        bundle: None,
        env: Default::default(),
    };
    let create = Create { name: name(sandbox), agent, route: None, strict: false, dashboard_port: None };
    installation.ask(&Request::Create(Box::new(create))).unwrap();
    installation.ask(&Request::Onboarded { name: name(sandbox) }).unwrap();
}

#[test]
fn twenty_sandboxes_are_all_started_again_but_for_those_that_were_stopped() {
    let installation = Installation::new();
    let names: Vec<String> = (1..=20).map(|number| format!("box-{number}")).collect();
    names.iter().for_each(|name| sleeper(&installation, name));
    names.iter().for_each(|name| drop(installation.ready(name)));
    installation.ask(&Request::Stop { name: name("box-7") }).unwrap();
    installation.lose_power();

    let status = wait_until(LONG, "all of them to run again", || {
        let all = installation.daemon().sandboxes;
        let idle = all.iter().filter(|sandbox| !sandbox.should_run);
        assert!(idle.map(|sandbox| sandbox.phase.as_str()).eq(["stopped"]));
        let wanted = || all.iter().filter(|sandbox| sandbox.should_run);
        assert!(wanted().all(|sandbox| sandbox.phase != "stopped"), "told as stopped, and it is on its way");
        wanted().all(|sandbox| sandbox.gateway.is_some()).then_some(all)
    });
    for sandbox in status.iter().filter(|sandbox| sandbox.should_run) {
        let sandbox = installation.ready(sandbox.name.as_str());
        assert_eq!(sandbox.gateway.unwrap().restarts, 1, "{}: started more than once", sandbox.name);
    }
}
