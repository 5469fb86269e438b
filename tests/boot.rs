//! What a user sees of a boot: the service is installed once, and from then on the sandboxes are back after
//! every reboot and every power cut, guarded, with their files, without a command.

#[path = "support/container.rs"]
mod container;
mod support;

use std::fs;

use clawkeep_daemon::Client;
use clawkeep_daemon::api::{Request, SandboxStatus, Value};
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

#[test]
fn a_user_has_a_service_of_her_own_that_starts_at_boot_once_she_lingers() {
    let Some(mut container) = Container::new() else { return };
    container.boot();
    let text = |output: &std::process::Output| {
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let said = text(&container.run_as_ann(&["clawkeep", "service", "install", "--system"]));
    assert!(
        said.contains("error[needs-root]") && said.contains("next: clawkeep service install --user"),
        "{said}"
    );
    let said = text(&container.run_as_ann(&["clawkeep", "service", "install"]));
    assert!(said.contains("error[no-user-manager]") && said.contains("enable-linger 1000"), "{said}");
    // As a login does.
    container.must(&["systemctl", "start", "user@1000.service"]);
    let output = container.run_as_ann(&["clawkeep", "service", "install"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("not at boot\n  next: loginctl enable-linger 1000"), "{said}");
    assert!(container.path("home/ann/.config/systemd/user/clawkeep.service").exists());
    wait_until(LONG, "logind", || {
        container.run(&["loginctl", "enable-linger", "1000"]).status.success().then_some(())
    });
    // In a container on cgroup v1 an orderly end of her systemd is not noticed for 90 s; the boot is what counts.
    container.cut_power();
    container.boot();
    let shown = wait_until(LONG, "her service to be active", || {
        let output = container.run_as_ann(&["clawkeep", "service", "status"]);
        output.status.success().then(|| text(&output))
    });
    assert!(shown.contains("clawkeep.service (user): installed, enabled, active since "), "{shown}");
    assert!(shown.contains("  home  /home/ann/.local/share/clawkeep\n"), "{shown}");
    let said = text(&container.run_as_ann(&["clawkeep", "service", "uninstall"]));
    assert!(said.contains("there are no sandboxes, and no daemon runs"), "{said}");
    assert!(container.daemons().is_empty());
}

#[test]
fn where_there_is_no_systemd_one_line_starts_everything_at_boot() {
    let installation = Installation::new();
    if clawkeep_daemon::unit::systemd_runs() {
        eprintln!("SKIPPED: this host has systemd: what is said without it cannot be seen");
        return;
    }
    installation.create_fake("box", &[]);
    let output = installation.clawkeep(&["service", "install"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error[no-systemd]: "), "{said}");
    let output = installation.clawkeep(&["service", "status", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &shown["installed"]), (Some(1), &false.into()));
    let line = shown["boot_line"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("echo '{line}'")), "{said}");
    assert_eq!(installation.clawkeep(&["service", "run"]).status.code(), Some(1), "beside the one that runs");

    installation.lose_power();
    // As cron runs it (crontab(5)): by /bin/sh, with hardly a variable.
    let command = line.strip_prefix("@reboot ").unwrap();
    let mut cron = std::process::Command::new("/bin/sh");
    cron.args(["-c", command]).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/");
    let mut cron = cron.stdin(std::process::Stdio::null()).spawn().unwrap();
    let status = wait_until(LONG, "the sandbox to be back without a command", || {
        let mut daemon = Client::connect(&installation.home.socket()).unwrap()?;
        match daemon.ask(&Request::Sandbox { name: Some(name("box")) }, |_| ()).ok()? {
            Value::Sandbox(found) => (found.phase == "ready").then_some(found),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(status.gateway.unwrap().restarts, 1);
    // The line is the daemon's parent: it ends with it.
    assert!(cron.try_wait().unwrap().is_none());
    drop(installation);
    // Whoever looked for what was left behind may have buried it.
    assert!(cron.wait().map_or(true, |status| status.success()));
}

#[test]
fn twenty_sandboxes_are_all_started_again_but_for_those_that_were_stopped() {
    let installation = Installation::new();
    let names: Vec<String> = (1..=20).map(|number| format!("box-{number}")).collect();
    names.iter().for_each(|name| drop(installation.create_fake(name, &[])));
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
        let launches = installation.launches(sandbox.name.as_str());
        assert!(launches.len() == 2 && launches.iter().all(|launch| launch.receipt && launch.alone));
    }
}
