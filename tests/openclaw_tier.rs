//! The real OpenClaw in the lower tier, on the host's own /tmp and network: root's, and an ordinary user's.

mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clawkeep_agents::{Cancel, Npm, Release, install};
use clawkeep_daemon::api::{AgentChoice, Create, Request, SandboxStatus, Value};
use clawkeep_plan::Tier;
use support::{Installation, LONG, kill9, name};
use testkit::{Outcome, Reexec, free_port, wait_until};

const NAME: &str = "my-assistant";

/// The ordinary user.
const UID: u32 = 12_345;

/// Make it, and wait until it serves.
fn make(installation: &Installation) -> SandboxStatus {
    let release = Release::all().first().unwrap();
    let npm = Npm::on_path().unwrap();
    install(&installation.home.bundles(), release, &npm, &Cancel::default(), &mut |_| ()).unwrap();
    let create = Create {
        name: name(NAME),
        agent: AgentChoice::Openclaw { version: release.version.to_owned() },
        route: None,
        strict: false,
        tier: Tier::Landlock,
        settle_secs: None,
        dashboard_port: Some(free_port()),
        limits: Default::default(),
        image: None,
        mounts: vec![],
        policy: Default::default(),
    };
    installation.ask(&Request::Create(Box::new(create))).unwrap();
    installation.ask(&Request::Onboarded { name: name(NAME) }).unwrap();
    guarded(installation, 0)
}

/// It serves, in a launch that is no earlier than this number of restarts, behind every guard.
fn guarded(installation: &Installation, restarts: u64) -> SandboxStatus {
    installation.ready_after(NAME, restarts);
    let status = wait_until(LONG, "all guards to have reported", || {
        let status = installation.status(NAME);
        status.guards.iter().all(|guard| guard.state == "verified").then_some(status)
    });
    let level = status.level.as_ref().unwrap();
    assert_eq!((status.tier, level.tier), (Tier::Landlock, Tier::Landlock));
    assert!(level.no_new_privs && level.caps.effective == 0, "{level:?}");
    let critical = status.guards.iter().filter(|guard| guard.critical).map(|guard| guard.name.as_str());
    assert_eq!(critical.collect::<Vec<_>>(), ["sandbox-safety-net", "ciao-network-guard", "private-tmp"]);
    status
}

/// One turn, over its own port, the proxy and the route.
fn serves(installation: &Installation) {
    match installation.ask(&Request::Turn { name: name(NAME), message: "hello".into() }) {
        Ok(Value::Text(text)) => assert!(text.contains("canary"), "{text}"),
        other => panic!("{other:?}\n{}", installation.log(NAME)),
    }
}

fn gateway(status: &SandboxStatus) -> (i32, u64) {
    let gateway = status.gateway.as_ref().unwrap();
    (gateway.pid, gateway.restarts)
}

/// Whatever the host's users have put where OpenClaw would look, and what it has there itself: nothing.
struct Neighbour(PathBuf);

impl Neighbour {
    /// Somebody has taken the place of its locks in `/tmp`.
    fn of(uid: u32) -> Self {
        let place = PathBuf::from(format!("/tmp/openclaw-state-locks-{uid}"));
        // Of a run that was killed.
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
        Self(place)
    }

    fn is_alone(&self) -> bool {
        fs::read_dir(&self.0).unwrap().next().is_none()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What OpenClaw calls its own in the host's `/tmp`.
fn openclaws_in_tmp() -> BTreeSet<OsString> {
    let names = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("openclaw")).collect()
}

/// Root's agent is a user of its own. The installed bundles are moved to this place, for whoever comes next.
fn of_root(bundles: &Path) {
    let installation = Installation::new();
    fs::set_permissions(installation.scratch(), PermissionsExt::from_mode(0o711)).unwrap();
    make(&installation);
    serves(&installation);
    // Somebody else's page: led to the agent, from its loopback.
    let status = installation.status(NAME);
    let page = format!("http://127.0.0.1:{}/healthz", status.dashboard_port.unwrap());
    let answer = std::process::Command::new("curl").args(["-s", "--max-time", "20", &page]).output().unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    installation.ask(&Request::Destroy { name: name(NAME) }).unwrap();
    fs::rename(installation.home.bundles(), bundles).unwrap();
}

/// A whole life of an ordinary user's, healed from everything.
fn of_an_ordinary_user(bundles: &Path) {
    let installation = Installation::new();
    let _ = fs::remove_dir(installation.home.bundles());
    fs::rename(bundles, installation.home.bundles()).unwrap();
    let (pid, restarts) = gateway(&make(&installation));
    kill9(pid);
    let (second, restarts) = gateway(&guarded(&installation, restarts + 1));

    let daemon = installation.daemon().daemon.pid;
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    assert_eq!(gateway(&guarded(&installation, restarts)), (second, restarts), "adopted, not started again");

    // Its first process, and everything in its directory for temporary files.
    let init = testkit::processes::process(second).unwrap().parent;
    installation.exec(NAME, "rm -rf $TMPDIR/* $TMPDIR/.[a-z]*");
    kill9(init);
    let (third, restarts) = gateway(&guarded(&installation, restarts + 1));
    assert_ne!(third, second);
    serves(&installation);

    // A shell, and OpenClaw's own command line in it: as its tools run it too, without the variable of Node.
    let shell =
        "unset NODE_OPTIONS; openclaw cron list --json > $HOME/cron 2>&1; echo ended $?; cat $HOME/cron";
    let (said, _) = installation.exec(NAME, shell);
    assert!(said.starts_with("ended 0\n"), "{said}");
    let probe = installation.clawkeep(&[NAME, "connect", "--probe-only"]);
    assert!(probe.status.success(), "{probe:?}");
    let recover = installation.clawkeep(&[NAME, "recover"]);
    assert!(String::from_utf8_lossy(&recover.stdout).contains("nothing to repair"), "{recover:?}");
    let rebuilt = installation.clawkeep(&[NAME, "rebuild", "--yes"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let (fourth, _) = gateway(&guarded(&installation, restarts + 1));
    assert_ne!(fourth, third);
    installation.ask(&Request::Destroy { name: name(NAME) }).unwrap();
    assert!(!installation.home.sandbox(&name(NAME)).root().exists());
}

#[test]
fn openclaw_lives_without_namespaces_and_without_the_hosts_tmp() {
    let test = "openclaw_lives_without_namespaces_and_without_the_hosts_tmp";
    let inner = Reexec::of(test).user(UID);
    if inner.is_inside() {
        return of_an_ordinary_user(&std::env::temp_dir().join("bundles"));
    }
    if !rustix::process::geteuid().is_root() || clawkeep_isolation::landlock_abi() < 6 {
        eprintln!("SKIPPED: {test} needs root and Landlock ABI 6");
        return;
    }
    let handover = tempfile::tempdir().unwrap();
    let bundles = handover.path().join("bundles");
    let neighbour = Neighbour::of(UID);
    let before = openclaws_in_tmp();
    of_root(&bundles);
    assert_ne!(inner.given(bundles).run(), Outcome::Inside);
    assert!(neighbour.is_alone());
    assert_eq!(openclaws_in_tmp(), before);
}
