//! Cold isolation of `/bin/true`, end to end, beside other sandboxes in the same run, as a table:
//! `cargo bench -p clawkeep --bench isolation`. Ours has every layer, a control group and a receipt that is read;
//! what the others have stands in their rows. `CLAWKEEP_BENCH_N` makes it shorter.

#[path = "table.rs"]
mod table;

use std::path::Path;
use std::process::{Command, Stdio as Std};
use std::time::{Duration, Instant};

use clawkeep_doctor::prove;
use clawkeep_isolation::System;
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
        command.args(["run", "--rm", "--network", "none"]);
        if name == "podman" {
            // By default it asks for more than a root without CAP_SYS_RESOURCE may have.
            command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]);
        }
        command.args([IMAGE, "/true"]);
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
    let proof = prove(Path::new(PROGRAM)).expect("a sandbox with every layer");
    (proof.told, proof.gone)
}
