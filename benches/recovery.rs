//! Figures of recovery and isolation, as a table: `cargo bench -p clawkeep --bench recovery`. Everything is
//! real (the program, the sandbox, the daemon) but the agent, which is the fake gateway: what is measured is
//! ours, not an agent's warm-up. `CLAWKEEP_BENCH_N` makes it shorter.

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "table.rs"]
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::{Command, Stdio as Std};
use std::time::{Duration, Instant};

use clawkeep_daemon::api::{AgentChoice, Create, Rehearsal, Request, Value};
use clawkeep_isolation::proto::{self, Event, Kind, Message, Order, Reply, Spawn};
use clawkeep_isolation::{
    IdMap, Limits, Mount, MountAccess, SandboxSpec, System, create, destroy, etc_files, find, wire,
};
use clawkeep_plan::{Digest, NetlinkRule, Receipt};
use support::{Installation, LONG, PROGRAM, name};
use table::{machine, monotonic_ns, row};
use testkit::{Handle, fake, wait_until};

fn main() {
    let n = std::env::var("CLAWKEEP_BENCH_N").ok().map(|n| n.parse().expect("a number"));
    println!("{}\n", machine());
    println!("| figure | n | p50 | p99 | max |\n|---|---|---|---|---|");
    recovery(n.unwrap_or(100), n.unwrap_or(50));
    isolation(n.unwrap_or(100));
    println!("\n| process | sandboxes | RSS | PSS | private dirty |\n|---|---|---|---|---|");
    memory();
}

/// From a SIGKILL to the first line of the next gateway's own code, and to ready.
fn recovery(kills: usize, losses: usize) {
    let installation = Installation::new();
    installation.create_fake("bench", &[]);
    let report = installation.files("bench").join("fake-report.jsonl");
    // A start after a stop knows of no failures: no wait is in the way of what is measured.
    let afresh = || {
        installation.ask(&Request::Stop { name: name("bench") }).unwrap();
        installation.ask(&Request::Start { name: name("bench") }).unwrap();
        installation.ready("bench").gateway.unwrap().pid
    };
    let measure = |n: usize, victim: &dyn Fn(i32) -> i32| -> (Vec<_>, Vec<_>) {
        let one = |_| {
            let gateway = afresh();
            let before = fake::last_launch(&report).unwrap();
            let victim = Handle::of(victim(gateway)).unwrap();
            let killed = monotonic_ns();
            assert!(victim.kill());
            let next = wait_until(LONG, "the next gateway", || {
                fake::last_launch(&report).filter(|launch| launch.began_ns != before.began_ns)
            });
            let ready = installation.ready("bench").gateway.unwrap();
            assert_ne!(ready.pid, gateway);
            assert!(next.receipt && next.alone && next.began_ns > killed);
            let respawn = Duration::from_nanos(next.began_ns - killed);
            let warm_up = Duration::from_millis(ready.warm_up_ms.expect("it was ready"));
            (respawn, warm_up)
        };
        (0..n).map(one).unzip()
    };
    let (mut respawn, mut warm_up) = measure(kills, &|gateway| gateway);
    row("gateway killed, to the next one's first instruction", &mut respawn);
    row("- its warm-up: launched to ready, as status tells (whole ms)", &mut warm_up);
    let init = |gateway: i32| testkit::processes::process(gateway).unwrap().parent;
    let (mut wiped, _) = measure(losses, &init);
    row("everything ephemeral gone (init killed), to the next one's first instruction", &mut wiped);
    // The daemon's own figure, as a check of the above; only the first of a sandbox has no wait before it.
    let mut rehearsed = Vec::new();
    for _ in 0..kills.div_ceil(10) {
        afresh();
        let rehearsal = Request::Rehearse { name: name("bench"), failure: Rehearsal::KillGateway };
        match installation.ask(&rehearsal).unwrap() {
            Value::Rehearsed { respawn_ms, .. } => rehearsed.push(Duration::from_millis(respawn_ms)),
            other => panic!("{other:?}"),
        }
    }
    row("- cross-check: the daemon's own figure for a killed gateway (whole ms)", &mut rehearsed);
}

/// `/bin/true` with every layer and its receipt read, beside bubblewrap and beside nothing at all.
fn isolation(n: usize) {
    let bubblewrap = Command::new("bwrap").arg("--version").output().is_ok_and(|out| out.status.success());
    let (mut ours, mut whole, mut theirs, mut plain) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first of each finds cold caches.
    for warm in (0..=n).map(|round| round > 0) {
        let started = Instant::now();
        assert!(Command::new("/bin/true").status().unwrap().success());
        let bare = started.elapsed();
        let (receipt, gone) = isolated_true();
        if warm {
            plain.push(bare);
            ours.push(receipt);
            whole.push(gone);
        }
        if bubblewrap {
            let started = Instant::now();
            let output = bubblewrapped_true().output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            if warm {
                theirs.push(started.elapsed());
            }
        }
    }
    row("fork and exec of /bin/true", &mut plain);
    row("clawkeep: sandbox made, /bin/true run, receipt read, its end told", &mut ours);
    row("clawkeep: the same, and the sandbox gone", &mut whole);
    if !bubblewrap {
        println!("| MISSING: bubblewrap is not installed (apt-get install bubblewrap); no ratio | | | | |");
        return;
    }
    row("bwrap --unshare-all, uid mapped, capabilities dropped", &mut theirs);
    let median = |times: &[Duration]| times[(times.len() - 1) / 2].as_secs_f64();
    let (ours, whole, theirs) = (median(&ours), median(&whole), median(&theirs));
    println!(
        "| ratio of medians, clawkeep to bwrap: until its end is told | {n} | {:.2} | | |",
        ours / theirs
    );
    println!("| ratio of medians, clawkeep to bwrap: until it is gone | {n} | {:.2} | | |", whole / theirs);
}

fn bubblewrapped_true() -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--uid", "998", "--gid", "998", "--cap-drop", "ALL", "--new-session"]);
    command.args(["--die-with-parent", "--hostname", "box", "--clearenv"]);
    for mount in System::of_this_host().mounts {
        command.arg("--ro-bind").arg(mount.source).arg(mount.target);
    }
    for (link, target) in System::of_this_host().symlinks {
        command.args(["--symlink", &target, &link]);
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true"]);
    command.stdin(Std::null());
    command
}

/// The time until the end of `/bin/true` and its receipt are known, and until the sandbox is gone.
fn isolated_true() -> (Duration, Duration) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let ids = IdMap::for_current_user(9);
    let (uid, gid) = ids.host_agent();
    std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
    let System { mut mounts, symlinks } = System::of_this_host();
    mounts.push(Mount { source: home, target: "/sandbox".into(), access: MountAccess::ReadWrite });
    let spec = SandboxSpec {
        name: "box".into(),
        ids,
        mounts,
        symlinks,
        files: etc_files("box"),
        listeners: vec![3128],
        tmp_bytes: 64 << 20,
        log_bytes: 1 << 20,
        limits: Limits::default(),
    };
    let run = dir.path().join("run");
    let order = Order::Spawn(Box::new(Spawn {
        id: "gateway-1".into(),
        kind: Kind::Gateway,
        plan: Digest::of(b"plan"),
        argv: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        cwd: "/".into(),
        netlink: NetlinkRule::RouteOnly,
        landlock_abi_min: 1,
        stdio: proto::Stdio::Log,
        reports: false,
    }));

    let started = Instant::now();
    create(Path::new(PROGRAM), &run, &spec).unwrap();
    let handle = find(&run).unwrap().expect("init serves");
    wire::send(&handle.connection, &proto::Request { number: 1, order }, &[]).unwrap();
    let (mut receipt, mut ended) = (None, None);
    let mut seen = VecDeque::new();
    while receipt.is_none() || ended.is_none() {
        match wire::receive(&handle.connection).unwrap().expect("init tells").0 {
            Message::Event(Event::Receipt { text, .. }) => {
                receipt = Some(Receipt::parse(text.as_bytes()).expect("a whole receipt"));
            }
            Message::Event(Event::Ended { how, .. }) => ended = Some(how),
            Message::Reply { reply: Reply::Spawned { .. }, .. } => {}
            other => seen.push_back(other),
        }
        assert!(seen.is_empty(), "{seen:?}");
    }
    let told = started.elapsed();
    destroy(&handle).unwrap();
    let gone = started.elapsed();
    assert_eq!(ended, Some(proto::Ended::Exited(0)));
    assert_eq!(receipt.unwrap().isolation.level.ids.uid[1], clawkeep_isolation::AGENT_ID);
    (told, gone)
}

/// What the processes of an installation take, idle, with one sandbox and with ten.
fn memory() {
    let installation = Installation::new();
    for number in 1..=10 {
        let agent = AgentChoice::Command {
            argv: vec!["/opt/clawkeep/agent/fake-gateway".into()],
            health_url: Some("http://127.0.0.1:18789/readyz".into()),
            config: None,
            safe_mode: false,
            node_guards: true,
            bundle: Some(installation.fake_bundle()),
            env: BTreeMap::new(),
        };
        let name = name(&format!("box-{number}"));
        let dashboard_port = Some(testkit::free_port());
        let create = Create {
            name: name.clone(),
            agent,
            route: None,
            strict: false,
            settle_secs: None,
            dashboard_port,
            limits: Limits::default(),
        };
        installation.ask(&Request::Create(Box::new(create))).unwrap();
        installation.ask(&Request::Onboarded { name: name.clone() }).unwrap();
        let gateway = installation.ready(name.as_str()).gateway.unwrap().pid;
        if number == 1 || number == 10 {
            let daemon = installation.daemon().daemon.pid;
            let init = testkit::processes::process(gateway).unwrap().parent;
            for (what, pid) in [
                ("daemon", daemon.cast_signed()),
                ("its parent", installation.parent_of(daemon)),
                ("one sandbox's init", init),
            ] {
                let [rss, pss, dirty] = footprint(pid);
                println!("| {what} | {number} | {rss} KiB | {pss} KiB | {dirty} KiB |");
            }
        }
    }
}

/// Rss, Pss and Private_Dirty (proc_pid_smaps(5)), in KiB.
fn footprint(pid: i32) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    ["Rss:", "Pss:", "Private_Dirty:"].map(|field| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of smaps_rollup");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    })
}
