//! The limits of a sandbox, for real, by whichever interface the host has.

mod support;

use std::time::Duration;

use clawkeep_isolation::proto::{Ended, Kind, Order, Reply, Stdio};
use clawkeep_isolation::{Enforced, Hierarchy, Host, Limits, Usage, create, find, remove};
use support::Sandbox;

const MINUTE: Duration = Duration::from_secs(60);

/// A tool that takes memory and uses it, for as long as it can.
const EAT: &str = "exec python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 20))'";

/// Skips loudly: what these tests are about is not there.
fn without_controllers(test: &str) -> bool {
    let host = Host::look();
    let without = host.controllers().len() < 3;
    if without {
        eprintln!("SKIPPED: {test} needs the memory, pids and cpu controllers: {host:?}");
    }
    without
}

fn sandbox(limits: Limits) -> (Sandbox, Enforced) {
    let sandbox = Sandbox::with(|spec| spec.limits = limits);
    let enforced = sandbox.handle.cgroup.enforced(&limits);
    (sandbox, enforced)
}

fn usage(sandbox: &Sandbox) -> Usage {
    sandbox.handle.cgroup.usage()
}

fn small() -> Limits {
    Limits { memory_bytes: Some(96 << 20), pids: Some(64), cpu_milli: Some(1500), file_bytes: Some(1 << 20) }
}

#[test]
fn limits_are_in_force_on_what_runs_and_init_is_beside_it() {
    if without_controllers("limits_are_in_force_on_what_runs_and_init_is_beside_it") {
        return;
    }
    let (mut sandbox, enforced) = sandbox(small());
    assert_eq!(enforced.hierarchy, Host::look().hierarchy());
    assert_eq!((enforced.memory_bytes, enforced.pids), (Some(96 << 20), Some(64)));
    assert_eq!((enforced.cpu_milli, enforced.file_bytes), (Some(1500), Some(1 << 20)));
    assert_eq!(enforced.missing, Vec::<String>::new());
    let group = enforced.group.unwrap();
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sleep", "1000"], &[]);
    let init = sandbox.handle.pid;
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let gateway: i32 = children.trim().parse().unwrap();
    let member = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        text.lines().filter(|line| line.contains(&group)).count()
    };
    // It joins first and then takes the limits upon itself.
    let comm = || std::fs::read_to_string(format!("/proc/{gateway}/comm")).unwrap();
    testkit::wait_until(MINUTE, "the gateway to be itself", || (comm() == "sleep\n").then_some(()));
    assert!(member(gateway) > 0);
    assert_eq!(member(init), 0);
    assert!(sandbox.handle.cgroup.paths().count() == member(gateway));
    let limits = std::fs::read_to_string(format!("/proc/{gateway}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max file size"), ["1048576", "1048576"]);
    assert_eq!(limit("Max processes"), ["64", "64"]);
    // A session leaves some of the processes to the gateway.
    let (output, _) =
        sandbox.sh("grep -E '^Max (processes|file size)' /proc/self/limits | tr -s ' ' | cut -d' ' -f4");
    assert_eq!(output, "1048576\n48\n");
    // The group's own name for itself tells nothing of the host's.
    let (own, _) = sandbox.sh("cat /proc/self/cgroup");
    assert!(!own.contains("process_api") && !own.contains("user.slice"), "{own}");
}

#[test]
fn a_tool_that_eats_memory_is_killed_and_nothing_else_is() {
    if without_controllers("a_tool_that_eats_memory_is_killed_and_nothing_else_is") {
        return;
    }
    let (mut sandbox, _) = sandbox(small());
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sleep", "1000"], &[]);
    assert_eq!(usage(&sandbox).oom_kills, Some(0));
    let (output, how) = sandbox.sh(EAT);
    assert_eq!(how, Ended::Signalled(9), "{output}");
    let after = usage(&sandbox);
    assert_eq!(after.oom_kills, Some(1));
    assert!(after.memory_peak_bytes.is_none_or(|peak| peak <= 96 << 20 && peak > 48 << 20), "{after:?}");
    let (Reply::Hello { children, .. }, _) = sandbox.ask(Order::Hello, &[]) else { panic!() };
    assert_eq!(
        children.iter().map(|child| (child.id.as_str(), child.ended)).collect::<Vec<_>>(),
        [("g", None)]
    );
}

#[test]
fn a_fork_bomb_ends_at_its_limit_and_init_starts_and_kills_beside_it() {
    if without_controllers("a_fork_bomb_ends_at_its_limit_and_init_starts_and_kills_beside_it") {
        return;
    }
    let (mut sandbox, _) = sandbox(small());
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [std::os::fd::AsFd::as_fd(&null); 3];
    let bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass";
    sandbox.spawn("bomb", Kind::Session, Stdio::Given, &["/usr/bin/python3", "-c", bomb], &fds);
    testkit::wait_until(MINUTE, "the bomb to be at its limit", || {
        (usage(&sandbox).pids? >= 48).then_some(())
    });
    // The gateway still starts, with room of its own.
    sandbox.spawn(
        "g",
        Kind::Gateway,
        Stdio::Log,
        &["/bin/sh", "-c", "(sleep 0); echo began; exec sleep 1000"],
        &[],
    );
    testkit::wait_until(MINUTE, "the gateway to run beside the bomb", || {
        sandbox.log().contains("began").then_some(())
    });
    assert!(usage(&sandbox).pids.unwrap() <= 64);
    let (reply, _) = sandbox.ask(Order::KillAll { spare_sessions: false }, &[]);
    assert!(matches!(reply, Reply::Killed { left: 0 }), "{reply:?}");
    assert_eq!(usage(&sandbox).pids, Some(0));
    assert_eq!(sandbox.sh("echo still here").0, "still here\n");
}

#[test]
fn a_full_tmp_and_a_file_that_grows_for_ever_end_where_they_should() {
    let limits = Limits { memory_bytes: None, cpu_milli: None, ..small() };
    let mut sandbox = Sandbox::with(|spec| {
        spec.limits = limits;
        spec.tmp_bytes = 4 << 20;
    });
    // In pieces, none of which is too large for a file.
    let (output, how) =
        sandbox.sh("for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/zero > /tmp/$i || exit 7; done");
    assert_eq!(how, Ended::Exited(7), "{output}");
    assert!(output.contains("No space left on device"), "{output}");
    let (output, how) = sandbox.sh("rm /tmp/[0-9]; exec head -c 3000000 /dev/zero > /sandbox/big");
    assert_eq!(how, Ended::Signalled(25), "SIGXFSZ: {output}");
    assert_eq!(std::fs::metadata(sandbox.dir.path().join("home/big")).unwrap().len(), 1 << 20);
    let (inodes, _) = sandbox.sh("stat -f -c %c /tmp");
    assert_eq!(inodes, "262144\n", "files in /tmp are limited in number");
}

#[test]
fn what_is_in_tmp_never_takes_all_of_the_memory() {
    if without_controllers("what_is_in_tmp_never_takes_all_of_the_memory") {
        return;
    }
    let (mut sandbox, _) = sandbox(Limits { file_bytes: None, ..small() });
    let (output, how) =
        sandbox.sh("head -c 200000000 /dev/zero > /tmp/fill; stat -c %s /tmp/fill; echo alive");
    assert_eq!(how, Ended::Exited(0), "{output}");
    let full = 48 << 20;
    assert!(output.contains(&format!("{full}\nalive\n")), "{output}");
    assert_eq!(usage(&sandbox).oom_kills, Some(0));
}

#[test]
fn nothing_of_the_group_is_left_however_the_sandbox_ends() {
    let exists = |sandbox: &Sandbox| sandbox.handle.cgroup.paths().filter(|path| path.exists()).count();
    let (one, _) = sandbox(Limits::default());
    if without_controllers("nothing_of_the_group_is_left_however_the_sandbox_ends") {
        return;
    }
    let paths: Vec<_> = one.handle.cgroup.paths().map(std::path::Path::to_owned).collect();
    assert!(exists(&one) > 0);
    drop(one);
    assert!(!paths.iter().any(|path| path.exists()));
    // Its init killed by somebody else: nobody could remove the group then.
    let (two, _) = sandbox(Limits::default());
    let run = two.dir.path().join("run");
    rustix::process::pidfd_send_signal(&two.handle.pidfd, rustix::process::Signal::KILL).unwrap();
    testkit::wait_until(MINUTE, "init to be gone", || find(&run).unwrap().is_none().then_some(()));
    assert!(exists(&two) > 0);
    remove(&run).unwrap();
    assert_eq!(exists(&two), 0);
    remove(&run).unwrap();
    remove(std::path::Path::new("/no/such/run")).unwrap();
}

#[test]
fn a_limit_that_this_host_cannot_keep_is_a_sandbox_that_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = support::spec(dir.path(), clawkeep_isolation::IdMap::for_current_user(7));
    let host = Host::look();
    let (limits, reason) = match host.lacks().next() {
        // The kernel takes no quota over its own most (max_bw_runtime_us of the scheduler).
        None => (
            Limits { cpu_milli: Some(u64::MAX / 100_000), ..Limits::default() },
            "the limit of cpu cannot be set in ",
        ),
        Some(_) => (small(), "cannot be enforced"),
    };
    spec.limits = limits;
    let run = dir.path().join("run");
    let error = create(support::program(), &run, &spec).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
    assert!(find(&run).unwrap().is_none());
}

/// All of the above once more in a virtual machine with cgroup v2, where it is run by name with
/// `CLAWKEEP_IN_VM=1 CLAWKEEP_INIT=<isolation-init> limits --ignored --test-threads=1`.
#[test]
#[ignore = "needs a host with cgroup v2: run in the virtual machine of the reboot test"]
fn the_same_on_cgroup_v2() {
    assert_eq!(Host::look().hierarchy(), Hierarchy::V2, "{:?}", Host::look());
    limits_are_in_force_on_what_runs_and_init_is_beside_it();
    a_tool_that_eats_memory_is_killed_and_nothing_else_is();
    a_fork_bomb_ends_at_its_limit_and_init_starts_and_kills_beside_it();
    a_full_tmp_and_a_file_that_grows_for_ever_end_where_they_should();
    what_is_in_tmp_never_takes_all_of_the_memory();
    nothing_of_the_group_is_left_however_the_sandbox_ends();
    a_limit_that_this_host_cannot_keep_is_a_sandbox_that_is_not_made();
}
