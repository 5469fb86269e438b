//! Cold isolation of `/bin/true`, end to end, beside other sandboxes in the same run, as a table:
//! `cargo bench -p clawkeep --bench isolation`. Ours has every layer, a control group and a receipt that is read;
//! what the others have stands in their rows. `CLAWKEEP_BENCH_N` makes it shorter.

#[path = "table.rs"]
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::{Command, Stdio as Std};
use std::time::{Duration, Instant};

use clawkeep_isolation::proto::{self, Event, Kind, Message, Order, Reply, Spawn};
use clawkeep_isolation::{
    IdMap, Limits, Mount, MountAccess, SandboxSpec, System, create, destroy, etc_files, find, wire,
};
use clawkeep_plan::{Digest, NetlinkRule, Receipt};
use table::{machine, row};

const PROGRAM: &str = env!("CARGO_BIN_EXE_clawkeep");

/// The image that the container engines run: one static program, so that nothing has to be fetched.
const IMAGE: &str = "clawkeep-bench-true";

/// Another sandbox, and what to do where it is not there.
struct Peer {
    what: &'static str,
    missing: &'static str,
    command: Command,
    /// Engines are slow: fewer rounds.
    share: usize,
}

fn main() {
    let n = std::env::var("CLAWKEEP_BENCH_N").ok().map_or(100, |n| n.parse().expect("a number"));
    println!("{}\n", machine());
    println!("| figure | n | p50 | p99 | max |\n|---|---|---|---|---|");
    let (mut present, missing): (Vec<_>, Vec<_>) =
        peers().into_iter().map(|mut peer| (runs(&mut peer.command), peer)).partition(|(runs, _)| *runs);
    let (mut ours, mut whole, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut theirs = vec![Vec::new(); present.len()];
    // In turns, so that what else the machine does meets all of them. The first of each finds cold caches.
    for round in 0..=n {
        let bare = timed(&mut Command::new("/bin/true"));
        let (receipt, gone) = isolated_true();
        let mut took: Vec<Option<Duration>> = Vec::new();
        for (_, peer) in &mut present {
            took.push((round <= n / peer.share).then(|| timed(&mut peer.command)));
        }
        if round > 0 {
            plain.push(bare);
            ours.push(receipt);
            whole.push(gone);
            theirs.iter_mut().zip(took).for_each(|(theirs, took)| theirs.extend(took));
        }
    }
    row("fork and exec", &mut plain);
    row("clawkeep: sandbox made, run, receipt read, its end told", &mut ours);
    row("clawkeep: the same, and the sandbox gone", &mut whole);
    for ((_, peer), theirs) in present.iter().zip(&mut theirs) {
        row(peer.what, theirs);
    }
    for (_, peer) in missing {
        println!("| MISSING: {} ({}) | | | | |", peer.what, peer.missing);
    }
    let median = |times: &[Duration]| times[(times.len() - 1) / 2].as_secs_f64();
    for ((_, peer), theirs) in present.iter().zip(&theirs) {
        let (told, gone) = (median(&ours) / median(theirs), median(&whole) / median(theirs));
        println!(
            "| ratio of medians to {} | {} | {told:.2}; until gone {gone:.2} | | |",
            peer.what,
            theirs.len()
        );
    }
}

fn peers() -> Vec<Peer> {
    let engine = |name: &str| {
        let mut command = Command::new(name);
        command.args(["run", "--rm", "--network", "none", IMAGE, "/true"]);
        command
    };
    vec![
        Peer {
            what: "bwrap --unshare-all, uid mapped, capabilities dropped",
            missing: "apt-get install bubblewrap",
            command: bubblewrapped_true(),
            share: 1,
        },
        Peer {
            what: "podman run --network none",
            missing: "apt-get install podman runc; scripts/bench-image podman",
            command: engine("podman"),
            share: 10,
        },
        Peer {
            what: "docker run --network none",
            missing: "apt-get install docker.io; dockerd; scripts/bench-image docker",
            command: engine("docker"),
            share: 10,
        },
    ]
}

fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn timed(command: &mut Command) -> Duration {
    let started = Instant::now();
    let output = command.stdin(Std::null()).output().unwrap();
    let took = started.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    took
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
