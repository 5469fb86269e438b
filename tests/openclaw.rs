//! The founding report's case and its neighbours, on the real OpenClaw from npm.

#[path = "support/load.rs"]
mod load;
mod support;

use std::process::Command;

use clawkeep_agents::{Cancel, Npm, Release, install};
use clawkeep_daemon::api::{AgentChoice, Create, Request, SandboxStatus, Value};
use load::{Load, soak_time};
use support::{Installation, LONG, kill9, name};
use testkit::{pause, wait_until};

/// The real gateway takes its time, more on a busy machine.
const GUARD: &str = "nemoclaw-ciao-network-guard.js";

fn onboard(installation: &Installation, args: &[&str]) -> String {
    let all = [&["onboard", "--non-interactive"], args].concat();
    let output =
        installation.command(&all).env("NEMOCLAW_ACCEPT_THIRD_PARTY_SOFTWARE", "1").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn assert_guarded(status: &SandboxStatus) {
    assert_eq!(status.phase, "ready");
    assert!(status.guards.len() >= 3);
    for guard in &status.guards {
        assert_eq!(guard.state, "verified", "{guard:?}");
    }
    let receipt = status.receipt.as_ref().expect("a receipt");
    assert_eq!(receipt.caps, "0x0");
    assert!(receipt.landlock_abi >= 1);
}

/// The gateway is back in a later launch, guarded, and an agent's turn is answered over the whole path.
fn back(installation: &Installation, before: &SandboxStatus) -> SandboxStatus {
    let restarts = before.gateway.as_ref().unwrap().restarts + 1;
    let status = installation.ready_after("my-assistant", restarts);
    wait_until(LONG, "all guards to have reported", || {
        let status = installation.status("my-assistant");
        status.guards.iter().all(|guard| guard.state == "verified").then_some(())
    });
    assert_guarded(&installation.status("my-assistant"));
    status
}

fn serves(installation: &Installation) {
    match installation.ask(&Request::Turn { name: name("my-assistant"), message: "hello".into() }) {
        Ok(Value::Text(text)) => assert!(text.contains("canary"), "{text}"),
        other => panic!("{other:?}\n{}", installation.log("my-assistant")),
    }
}

/// It has served for the settle window: its earlier failures are forgotten.
fn settles(installation: &Installation) {
    wait_until(LONG, "it to settle", || {
        let log = std::fs::read_to_string(installation.home.run().join("daemon.log")).unwrap();
        (log.rfind(": settled: ") > log.rfind(": launched: ")).then_some(())
    });
}

/// It has served for the settle window, and then its WebSocket has said the hello.
fn sings(installation: &Installation) {
    wait_until(LONG, "the canary to sing", || {
        let log = std::fs::read_to_string(installation.home.run().join("daemon.log")).unwrap();
        assert!(!log.contains(": canary-failed: "), "{log}");
        log.contains(": proven: ").then_some(())
    });
}

/// Everything in the sandbox dies at once, after this was done to its `/tmp` by the host's root (or, rootless,
/// by the agent itself).
fn kill_everything_after(installation: &Installation, status: &SandboxStatus, script: &str) {
    let pid = status.gateway.as_ref().unwrap().pid;
    if rustix::process::geteuid().is_root() {
        let script = format!("T=/proc/{pid}/root/tmp; F=$T/{GUARD}; {script}");
        // Between two commands of the script the file may be back already.
        wait_until(LONG, "the tampering to work", || {
            let output = Command::new("/bin/sh").args(["-ec", &script]).output().unwrap();
            output.status.success().then_some(())
        });
        installation.exec("my-assistant", "kill -9 -1");
    } else {
        installation.exec("my-assistant", &format!("T=/tmp; F=$T/{GUARD}; {script}; kill -9 -1"));
    }
}

/// Every wall around the real one, before and after it was killed, stopped and given a configuration that is none.
/// Not in the fast path: `just drill`.
#[test]
#[ignore = "minutes"]
fn the_real_one_holds_in_a_drill() {
    let installation = Installation::new();
    onboard(&installation, &[]);
    let output = installation.clawkeep(&["my-assistant", "drill", "--json"]);
    let card: clawkeep_drill::Scorecard = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let failed: Vec<_> = card.attempts.iter().filter(|attempt| attempt.outcome.fails()).collect();
    assert!(failed.is_empty() && card.recovered && output.status.success(), "{failed:#?}");
    let missed = card.attempts.iter().filter(|it| it.outcome == clawkeep_drill::Outcome::NotRun);
    // Its limit is most of this machine's memory.
    assert_eq!(missed.map(|attempt| attempt.id.as_str()).collect::<Vec<_>>(), ["eat-memory"]);
    assert_guarded(&installation.status("my-assistant"));
    serves(&installation);
}

#[test]
fn the_founding_report_ends_here() {
    let installation = Installation::new();
    let text = onboard(&installation, &[]);
    for step in
        ["host", "agent", "sandbox", "guards", "gateway", "model", "rehearsal", "Open", "Shell", "Model"]
    {
        assert!(text.contains(step), "no {step} in\n{text}");
    }
    let mut status = installation.ready("my-assistant");
    assert_guarded(&status);
    assert!(status.agent.runtime.starts_with("node "), "{:?}", status.agent);
    serves(&installation);
    let log = installation.log("my-assistant");
    assert!(log.contains("[sandbox-safety-net] loaded (openclaw-gateway)"), "{log}");
    assert!(log.contains("[guard] ciao-network-guard loaded (openclaw-gateway)"), "{log}");

    // Killed five times, each time back with guards.
    for _ in 0..5 {
        kill9(status.gateway.as_ref().unwrap().pid);
        status = back(&installation, &status);
    }
    serves(&installation);

    // The daemon killed in the middle of it: no gateway restarts.
    let daemon = installation.daemon().daemon.pid;
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    let after = installation.ready("my-assistant");
    assert_eq!(after.gateway.as_ref().unwrap().pid, status.gateway.as_ref().unwrap().pid);
    assert_guarded(&after);

    // Stopped: found and replaced.
    let pid = rustix::process::Pid::from_raw(status.gateway.as_ref().unwrap().pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    status = back(&installation, &status);
    sings(&installation);

    // The env file removed and everything killed: restored before the launch, and said so in the log.
    let warning = "[gateway-recovery] WARNING: /tmp/nemoclaw-proxy-env.sh missing or unsafe - restoring library guards from packaged preloads";
    let warned = installation.log("my-assistant").matches(warning).count();
    kill_everything_after(&installation, &status, "rm -f $T/nemoclaw-proxy-env.sh");
    status = back(&installation, &status);
    assert!(installation.log("my-assistant").matches(warning).count() > warned);

    // All of /tmp wiped.
    let wipe = "find $T -mindepth 1 -maxdepth 1 ! -name gateway.log -exec rm -rf {} +";
    kill_everything_after(&installation, &status, wipe);
    status = back(&installation, &status);
    serves(&installation);

    // One guard replaced; the hostile line is never executed.
    let hostile = "require(\"fs\").writeFileSync(\"/sandbox/pwned\",\"\")";
    for script in [
        "ln -sfn /sandbox/evil.js $F".to_owned(),
        "rm -rf $F; mkdir $F; mkdir $F/deep".to_owned(),
        format!("rm -f $F; echo '{hostile}' > $F"),
        format!("rm -f $F; echo '{hostile}' > $F; chmod 0666 $F"),
    ] {
        std::fs::write(installation.files("my-assistant").join("evil.js"), hostile).unwrap();
        kill_everything_after(&installation, &status, &script);
        status = back(&installation, &status);
        let (look, code) = installation.exec("my-assistant", &format!("stat -c '%a %F' /tmp/{GUARD}"));
        assert_eq!((look.as_str(), code), ("444 regular file\n", 0));
    }
    assert!(!installation.files("my-assistant").join("pwned").exists());

    // More failures in a row would be held for a person.
    settles(&installation);

    // Stale locks: of a pid that is gone, and of one that lives and is somebody else (init, pid 1).
    for pid in [999_999, 1] {
        let lock = format!(
            r#"{{"pid":{pid},"createdAt":"2026-01-01T00:00:00Z","configPath":"/sandbox/.openclaw/openclaw.json","startTime":7}}"#
        );
        let script = format!(
            "for f in /sandbox/.openclaw/tmp/openclaw-998/gateway.*.lock; do printf '%s' '{lock}' > $f; done; ls /sandbox/.openclaw/tmp/openclaw-998"
        );
        let (listed, code) = installation.exec("my-assistant", &script);
        assert!(code == 0 && listed.contains("gateway."), "{listed}");
        kill9(status.gateway.as_ref().unwrap().pid);
        status = back(&installation, &status);
    }
    assert!(installation.log("my-assistant").contains("removed stale lock"));
    serves(&installation);

    // The agent's own path out is the model route alone.
    let (models, code) =
        installation.exec("my-assistant", "curl -sS --max-time 20 https://inference.local/v1/models");
    assert!(code == 0 && models.contains("canary"), "{models}");
    let (denied, _) = installation.exec("my-assistant", "curl -sS --max-time 20 http://192.0.2.1/ 2>&1");
    assert!(denied.contains("egress_denied"), "{denied}");

    // Its state outlives all of that, and a new sandbox uses the installed bundle.
    assert!(installation.files("my-assistant").join(".openclaw/openclaw.json").exists());
}

#[test]
fn a_runtime_that_is_removed_from_the_host_is_installed_again() {
    let installation = Installation::new();
    let release = Release::all().first().unwrap();
    let npm = Npm::on_path().unwrap();
    let bundle =
        install(&installation.home.bundles(), release, &npm, &Cancel::default(), &mut |_| ()).unwrap();
    let create = Create {
        name: name("my-assistant"),
        agent: AgentChoice::Openclaw { version: release.version.to_owned() },
        route: None,
        strict: false,
        tier: Default::default(),
        settle_secs: None,
        dashboard_port: Some(testkit::free_port()),
        limits: Default::default(),
        image: None,
        mounts: vec![],
        policy: Default::default(),
    };
    installation.ask(&Request::Create(Box::new(create))).unwrap();
    installation.ask(&Request::Onboarded { name: name("my-assistant") }).unwrap();
    let status = installation.ready("my-assistant");

    std::fs::remove_file(bundle.dir().join("bin/node")).unwrap();
    kill9(status.gateway.as_ref().unwrap().pid);
    wait_until(2 * LONG, "the installation", || {
        let events = installation.events("my-assistant");
        events.iter().any(|event| event.entry.kind == "mended").then_some(())
    });
    back(&installation, &status);
    serves(&installation);
    bundle.verify_full().unwrap();
}

#[test]
fn the_reports_own_version_crashes_without_guards_where_netlink_is_refused_and_runs_with_them() {
    let installation = Installation::new();
    onboard(&installation, &["--agent-version", "2026.4.9", "--strict"]);
    let status = installation.ready("my-assistant");
    assert_guarded(&status);
    serves(&installation);
    let probe = "node -e 'console.log(JSON.stringify(require(\"os\").networkInterfaces()))'";
    let (output, _) = installation.exec("my-assistant", &format!("unset NODE_OPTIONS; {probe}"));
    assert!(output.contains("uv_interface_addresses returned Unknown system error 1"), "{output}");
    let (output, code) = installation.exec("my-assistant", probe);
    assert!(code == 0 && output.contains("127.0.0.1"), "{output}");

    sings(&installation);

    // A second gateway, by hand, with mDNS on, on another port, in the same strict sandbox: first as the report
    // had it, then with the guards.
    let config = r#"{"gateway":{"mode":"local","bind":"loopback","port":18999,"auth":{"mode":"token","token":"t"}},"update":{"checkOnStart":false},"plugins":{"entries":{"acpx":{"enabled":false}}}}"#;
    let gateway = |state: &str, before: &str| {
        format!(
            "mkdir -p /sandbox/{state} && cd /sandbox/{state} && printf '%s' '{config}' > openclaw.json; {before} \
             export OPENCLAW_NO_RESPAWN=1 OPENCLAW_STATE_DIR=$PWD OPENCLAW_CONFIG_PATH=$PWD/openclaw.json TMPDIR=$PWD/tmp; \
             mkdir -p -m 0700 tmp; exec node /opt/clawkeep/agent/app/node_modules/openclaw/openclaw.mjs gateway run"
        )
    };
    let (output, code) = installation.exec(
        "my-assistant",
        &format!("timeout 100 sh -c '{}'", gateway("naked", "unset NODE_OPTIONS;").replace('\'', "'\\''")),
    );
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("uv_interface_addresses"), "{output}");

    let guarded = gateway("guarded", "export CLAWKEEP_PROCESS=openclaw-gateway;");
    let mut child =
        installation.command(&["my-assistant", "exec", "--", "/bin/sh", "-c", &guarded]).spawn().unwrap();
    wait_until(LONG, "the guarded gateway to serve", || {
        assert!(child.try_wait().unwrap().is_none(), "the guarded gateway ended");
        let (answer, _) = installation
            .exec("my-assistant", "curl -s --max-time 5 --noproxy '*' http://127.0.0.1:18999/readyz");
        answer.contains("\"ready\":true").then_some(())
    });
    // Longer than the crash took.
    pause(std::time::Duration::from_secs(8));
    assert!(child.try_wait().unwrap().is_none(), "the guarded gateway lives on");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// At full load without a restart. Not in the fast path: `just soak`.
#[test]
#[ignore = "an hour"]
fn soak_at_full_load_without_a_restart() {
    let installation = Installation::new();
    onboard(&installation, &[]);
    let before = installation.ready("my-assistant");
    serves(&installation);
    let load = Load::full();
    let until = std::time::Instant::now() + soak_time();
    while std::time::Instant::now() < until {
        pause(std::time::Duration::from_secs(20));
        let after = installation.status("my-assistant");
        let pid = |status: &SandboxStatus| status.gateway.as_ref().map(|gateway| gateway.pid);
        assert_eq!(pid(&after), pid(&before), "{:?}", after.last_incident);
        assert_eq!(after.phase, "ready");
    }
    drop(load);
    let log = std::fs::read_to_string(installation.home.run().join("daemon.log")).unwrap();
    for kind in ["starved", "missed", "deaf", "canary-failed"] {
        eprintln!("{kind}: {}", log.matches(&format!(": {kind}: ")).count());
    }
    serves(&installation);
    let after = installation.ready("my-assistant");
    assert_eq!(after.gateway.unwrap().pid, before.gateway.unwrap().pid);
}
