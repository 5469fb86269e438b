//! The lower tier, chosen aloud: Landlock and seccomp alone, on a host that refuses user namespaces and on one that
//! does not, as an ordinary user and as root.

mod support;

use std::os::unix::fs::PermissionsExt;

use clawkeep_daemon::api::{Request, SandboxStatus};
use clawkeep_plan::Tier;
use support::{Installation, LONG, kill9, name};
use testkit::{Outcome, Reexec, free_port, wait_until};

/// It needs scopes for signals and abstract sockets.
fn can_be_had(test: &str) -> bool {
    let found = clawkeep_isolation::landlock_abi() >= 6;
    if !found {
        eprintln!("SKIPPED: {test} needs Landlock ABI 6");
    }
    found
}

/// Where the agent is another user it must get to what it is shown.
fn open(installation: &Installation) {
    std::fs::set_permissions(installation.scratch(), PermissionsExt::from_mode(0o711)).unwrap();
    std::fs::set_permissions(installation.fake_bundle(), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Onboard the fake gateway in the lower tier, with its rehearsals: its main process killed, its `/tmp` emptied.
fn onboard(installation: &Installation) -> SandboxStatus {
    let port = free_port().to_string();
    let health = format!("http://127.0.0.1:{port}/readyz");
    let (bundle, page) = (installation.fake_bundle(), free_port().to_string());
    let words = [
        "onboard",
        "--non-interactive",
        "--name",
        "box",
        "--isolation",
        "landlock",
        "--agent",
        "command",
        "--node-guards",
        "--settle",
        "1",
        "--health-url",
        &health,
        "--dashboard-port",
        &page,
        "--bundle",
    ];
    let agent = [
        "--",
        "/opt/clawkeep/agent/fake-gateway",
        "--port",
        &port,
        "--report",
        "/sandbox/fake-report.jsonl",
        "--orders",
        "/sandbox/fake-orders",
    ];
    let output = installation.command(&words).arg(bundle).args(agent).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("NO namespaces (the landlock tier, as you chose)"), "{text}");
    installation.ready("box")
}

/// A whole life of it: told aloud, guarded, healed from everything, confined, gone without a trace.
fn lives(installation: &Installation) {
    let before = onboard(installation);
    let level = before.level.as_ref().unwrap();
    assert_eq!((before.tier, level.tier), (Tier::Landlock, Tier::Landlock));
    assert!(level.no_new_privs && level.caps.effective == 0 && level.landlock.handled.net == 3, "{level:?}");
    // Its route is proven by the way of its own: its proxy serves nobody else.
    wait_until(LONG, "the route to be proven", || {
        installation.status("box").proof.filter(|proof| proof.state == "proven" && proof.took_ms.is_some())
    });
    let critical = before.guards.iter().filter(|guard| guard.critical);
    assert!(critical.clone().count() == 2 && critical.clone().all(|guard| guard.state == "verified"));
    for command in [&["box", "status"][..], &["list"], &["status"]] {
        let output = installation.clawkeep(command);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("landlock tier"), "{command:?}: {text}");
    }
    let said = String::from_utf8(installation.clawkeep(&["box", "status"]).stdout).unwrap();
    assert!(said.contains("NO namespaces"), "{said}");

    // The way to the model, and no other way; nothing of the host's.
    let secret = installation.scratch().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let (secret, us) = (secret.display(), std::process::id());
    let script = format!(
        "cat {secret}; echo x > {secret}; ls /; cat /proc/{us}/environ; kill -0 {us}; ls {0}; \
        echo mine > $HOME/f && cat $HOME/f && head -c 5 $SSL_CERT_FILE && \
        test -r $TMPDIR/gateway.log && echo log",
        installation.home.root().display()
    );
    let (output, _) = installation.exec("box", &script);
    assert!(!output.contains("secret\n") && output.contains("mine\n-----log\n"), "{output}");
    // Not permitted, or permission denied.
    assert_eq!(output.matches("ermi").count(), 6, "{output}");
    assert_eq!(std::fs::read_to_string(installation.scratch().join("secret")).unwrap(), "secret");
    if std::path::Path::new("/usr/bin/python3").exists() {
        let ask = "import urllib.request as r; print(r.urlopen('https://inference.local/v1/models').read().decode())";
        let (output, code) = installation.exec("box", &format!("/usr/bin/python3 -c \"{ask}\""));
        assert!(code == 0 && output.contains("canary"), "{output}");
    } else {
        eprintln!("SKIPPED: the way to the model needs /usr/bin/python3");
    }

    // What is published comes back; whatever ends is started again.
    installation.exec("box", "rm -f $TMPDIR/nemoclaw-ciao-network-guard.js");
    wait_until(LONG, "the guard that the agent removed to be back", || {
        let (output, _) = installation.exec("box", "stat -c %a $TMPDIR/nemoclaw-ciao-network-guard.js");
        (output == "444\n").then_some(())
    });
    let restarts = |status: &SandboxStatus| status.gateway.as_ref().unwrap().restarts;
    let gateway = |status: &SandboxStatus| status.gateway.as_ref().unwrap().pid;
    kill9(gateway(&before));
    let second = installation.ready_after("box", restarts(&before) + 1);
    let daemon = installation.daemon().daemon.pid;
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    let adopted = installation.ready("box");
    assert_eq!(gateway(&adopted), gateway(&second), "adopted, not started again");
    // Its first process, and with it all of the sandbox, however it got away.
    let (away, _) = installation.exec("box", "setsid setsid sleep 1000 >/dev/null 2>&1 & echo $!");
    let left = testkit::Handle::of(away.trim().parse().unwrap());
    kill9(testkit::processes::process(gateway(&adopted)).unwrap().parent);
    let third = installation.ready_after("box", restarts(&adopted) + 1);
    assert_ne!(gateway(&third), gateway(&adopted));
    assert!(left.is_none_or(|left| left.ends_within(LONG)));
    for launch in installation.launches("box") {
        assert!(launch.receipt && launch.guards.len() >= 3, "{launch:?}");
    }
    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    assert!(!installation.home.sandbox(&name("box")).root().exists());
}

#[test]
fn where_user_namespaces_are_refused_the_lower_tier_is_offered_and_lives_when_it_is_chosen_aloud() {
    let test =
        "where_user_namespaces_are_refused_the_lower_tier_is_offered_and_lives_when_it_is_chosen_aloud";
    if !can_be_had(test) || Reexec::of(test).user_namespace().run() != Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    // Without the word for it there is no sandbox, and it is told of behind the command that gives the whole one.
    let silent =
        installation.clawkeep(&["onboard", "--non-interactive", "--agent", "command", "--", "/bin/true"]);
    let told = String::from_utf8_lossy(&silent.stderr);
    assert!(!silent.status.success() && told.contains("error[host-unfit]"), "{told}");
    assert!(told.contains("otherwise: a sandbox behind Landlock and seccomp alone"), "{told}");
    let doctor = installation.clawkeep(&["doctor"]);
    let told = String::from_utf8_lossy(&doctor.stdout);
    let (fix, other) = (told.find("max_user_namespaces=15000"), told.find("--isolation landlock"));
    assert!(doctor.status.code() == Some(1) && fix.is_some() && fix < other, "{told}");
    lives(&installation);
}

#[test]
fn an_ordinary_user_who_could_have_namespaces_can_choose_it_too() {
    let test = "an_ordinary_user_who_could_have_namespaces_can_choose_it_too";
    if can_be_had(test) && Reexec::of(test).user(12_345).run() == Outcome::Inside {
        lives(&Installation::new());
    }
}

#[test]
fn of_root_it_has_a_user_of_its_own() {
    let test = "of_root_it_has_a_user_of_its_own";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return;
    }
    if !can_be_had(test) {
        return;
    }
    let installation = Installation::new();
    open(&installation);
    lives(&installation);
}

#[test]
fn where_roots_agent_cannot_get_to_its_files_it_is_said_and_nothing_is_started() {
    let test = "where_roots_agent_cannot_get_to_its_files_it_is_said_and_nothing_is_started";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return;
    }
    if !can_be_had(test) {
        return;
    }
    // Its directory is closed to others, as one of root's often is.
    let installation = Installation::new();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(installation.scratch(), closed).unwrap();
    let Request::Create(mut create) = installation.fake("box", &[], false, Default::default()) else {
        panic!("another request")
    };
    create.tier = Tier::Landlock;
    create.agent = clawkeep_daemon::api::AgentChoice::Command {
        argv: vec!["/bin/sleep".into(), "1000".into()],
        health_url: None,
        config: None,
        safe_mode: false,
        node_guards: false,
        bundle: None,
        env: Default::default(),
    };
    installation.ask(&Request::Create(create)).unwrap();
    let told = wait_until(LONG, "the cause to be told", || installation.status("box").last_incident);
    let closed = format!("others may not pass through {}", installation.scratch().display());
    assert!(told.what.contains(&closed), "{}", told.what);
    assert!(installation.status("box").gateway.is_none());
}

/// Somebody else of the host who serves on this port.
struct Stranger(std::process::Child);

impl Stranger {
    fn on(port: u16, program: &std::path::Path) -> Self {
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut command = std::process::Command::new("setpriv");
        command
            .args(user)
            .arg(program)
            .args(["--port", &port.to_string(), "--lock", "off"])
            .env("HOME", "/nonexistent");
        let child = command.stdin(std::process::Stdio::null()).spawn().unwrap();
        wait_until(LONG, "a stranger to serve", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stranger_on_the_agents_port_is_told_of_and_gets_nothing() {
    let test = "a_stranger_on_the_agents_port_is_told_of_and_gets_nothing";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return;
    }
    if !can_be_had(test) {
        return;
    }
    let installation = Installation::new();
    open(&installation);
    let (port, page) = (free_port(), free_port());
    let Request::Create(mut create) = installation.fake("box", &[], false, Default::default()) else {
        panic!("another request")
    };
    create.tier = Tier::Landlock;
    create.dashboard_port = Some(page);
    create.agent = clawkeep_daemon::api::AgentChoice::Command {
        // It has not come to serving yet.
        argv: vec!["/bin/sleep".into(), "1000".into()],
        health_url: Some(format!("http://127.0.0.1:{port}/readyz#every=1s")),
        config: None,
        safe_mode: false,
        node_guards: false,
        bundle: None,
        env: Default::default(),
    };
    installation.ask(&Request::Create(create)).unwrap();
    let told = |kind: &str| {
        let what = format!("port {port} of this host is taken by user 65534");
        wait_until(LONG, "the stranger to be told of", || {
            let events = installation.events("box");
            let found = events.iter().any(|e| e.entry.kind == kind && e.entry.cause.contains(&what));
            found.then_some(())
        });
    };
    wait_until(LONG, "the agent to run", || installation.status("box").gateway);
    let stranger = Stranger::on(port, &installation.fake_bundle().join("fake-gateway"));
    told("port-taken");
    assert_eq!(installation.status("box").phase, "starting");
    // Who comes to the page, with a token in its hand, is not led there.
    let answer = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "20", &format!("http://127.0.0.1:{page}/readyz")])
        .output()
        .unwrap();
    assert!(!answer.status.success() && answer.stdout.is_empty(), "{answer:?}");
    // Nor is anything started for as long as it has the port.
    installation.ask(&Request::Restart { name: name("box") }).unwrap();
    told("refused");
    drop(stranger);
    wait_until(LONG, "the agent to run again", || {
        let _ = installation.ask(&Request::Recover { name: name("box") });
        installation.status("box").gateway
    });
}

#[test]
fn what_takes_namespaces_is_refused_by_name() {
    if !can_be_had("what_takes_namespaces_is_refused_by_name") {
        return;
    }
    let installation = Installation::new();
    open(&installation);
    let base = ["onboard", "--non-interactive", "--isolation", "landlock"];
    let command = ["--agent", "command"];
    let mount = ["--mount", "/usr/share:/opt/share"];
    let words = [&base[..], &command, &mount, &["--", "/bin/sleep", "1000"]].concat();
    let output = installation.clawkeep(&words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("error[isolation-lacks]") && text.contains("--mount"), "{text}");
    // Its own port is the host's: somebody else may have it.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = format!("http://127.0.0.1:{}/", taken.local_addr().unwrap().port());
    let words = [&base[..], &command, &["--health-url", &health], &["--", "/bin/sleep", "1000"]].concat();
    let output = installation.clawkeep(&words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("error[port-taken]") && text.contains("without namespaces"), "{text}");
}
