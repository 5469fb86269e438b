//! What a sandbox takes of its host ends where its limits are, and what that breaks heals: memory, processes,
//! disk, log. The daemon and the other sandboxes go on as if nothing were.

mod support;

use std::path::PathBuf;

use clawkeep_daemon::api::{AgentChoice, LimitsStatus, Request, SandboxStatus};
use clawkeep_isolation::{Hierarchy, Host, Limits};
use support::{Installation, LONG, kill9, name};
use testkit::wait_until;

const MIB: u64 = 1 << 20;

/// Takes memory and uses it, for as long as it can.
const EAT: &str = "exec python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 20))'";

/// Forks for ever; every child does the same.
const BOMB: &str = "exec python3 -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'";

fn small() -> Limits {
    Limits {
        memory_bytes: Some(256 * MIB),
        pids: Some(160),
        cpu_milli: Some(1000),
        file_bytes: Some(16 * MIB),
    }
}

/// Skips loudly: without the controllers there is nothing to see.
fn without_controllers(test: &str) -> bool {
    let host = Host::look();
    let without = host.controllers().len() < 3;
    if without {
        eprintln!("SKIPPED: {test} needs the memory, pids and cpu controllers: {host:?}");
    }
    without
}

fn limits(status: &SandboxStatus) -> &LimitsStatus {
    status.limits.as_ref().expect("a sandbox has limits")
}

fn gateway(status: &SandboxStatus) -> i32 {
    status.gateway.as_ref().expect("a gateway").pid
}

fn gateway_restarts(status: &SandboxStatus) -> u64 {
    status.gateway.as_ref().expect("a gateway").restarts
}

fn oom_kills(installation: &Installation, sandbox: &str) -> u64 {
    limits(&installation.status(sandbox)).usage.oom_kills.expect("the kernel counts them")
}

/// The directories on the host of a control group of this name.
fn directories(group: &str) -> Vec<PathBuf> {
    let below = |dir: &str| {
        let entries = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut roots = below("/sys/fs/cgroup");
    roots.push("/sys/fs/cgroup".into());
    roots.into_iter().map(|root| root.join(group)).filter(|path| path.exists()).collect()
}

fn order(status: &SandboxStatus, order: &str) {
    let stream = std::net::TcpStream::connect(("127.0.0.1", status.dashboard_port.unwrap())).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    // It may die before it answers.
    let _ = testkit::http::post(stream, &format!("/fake/{order}"), b"");
}

/// Another sandbox and the daemon, which must not notice anything.
struct Bystander<'a> {
    installation: &'a Installation,
    daemon: u32,
    gateway: i32,
}

impl<'a> Bystander<'a> {
    fn new(installation: &'a Installation) -> Self {
        let gateway = gateway(&installation.create_fake("bystander", &[]));
        Self { installation, daemon: installation.daemon().daemon.pid, gateway }
    }

    fn assert_unaffected(&self) {
        let status = self.installation.ready("bystander");
        assert_eq!(gateway(&status), self.gateway, "the other sandbox's gateway was replaced");
        assert_eq!(self.installation.daemon().daemon.pid, self.daemon, "the daemon was replaced");
        assert_eq!(limits(&status).usage.oom_kills, Some(0));
        let (output, code) = self.installation.exec("bystander", "echo well");
        assert_eq!((output.as_str(), code), ("well\n", 0));
    }
}

/// Resident memory of a process in KiB (proc_pid_status(5)).
fn resident_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn limits_are_told_as_the_kernel_has_them_and_outlive_the_daemon() {
    if without_controllers("limits_are_told_as_the_kernel_has_them_and_outlive_the_daemon") {
        return;
    }
    let installation = Installation::new();
    let status = installation.create_fake_within("box", &[], small());
    let enforced = &limits(&status).enforced;
    assert_eq!((enforced.memory_bytes, enforced.pids), (Some(256 * MIB), Some(160)));
    assert_eq!((enforced.cpu_milli, enforced.file_bytes), (Some(1000), Some(16 * MIB)));
    assert_eq!(enforced.missing, Vec::<String>::new());
    let group = enforced.group.clone().unwrap();
    let dirs = directories(&group);
    assert_eq!(dirs.len(), if enforced.hierarchy == Hierarchy::V2 { 1 } else { 3 }, "{dirs:?}");
    let members = |dir: &PathBuf| {
        let part = dir.join("gateway");
        let dir = if part.is_dir() { &part } else { dir };
        std::fs::read_to_string(dir.join("cgroup.procs")).unwrap()
    };
    assert!(dirs.iter().all(|dir| members(dir).lines().any(|pid| pid == gateway(&status).to_string())));

    let text = installation.clawkeep(&["box", "status"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("  limits     memory 256 MiB, 160 processes, 1 processors, files 16 MiB; "),
        "{text}"
    );
    let json = installation.clawkeep(&["box", "status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["limits"]["memory_bytes"], 256 * MIB);
    assert!(json["limits"]["usage"]["pids"].as_u64().unwrap() > 0, "{json}");

    kill9(installation.daemon().daemon.pid.cast_signed());
    let after = installation.ready("box");
    assert_eq!(gateway(&after), gateway(&status), "adopted, not restarted");
    assert_eq!(limits(&after).enforced, *enforced);
    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    assert_eq!(directories(&group), Vec::<PathBuf>::new());
}

#[test]
fn nobody_asks_for_limits_and_there_are_some() {
    if without_controllers("nobody_asks_for_limits_and_there_are_some") {
        return;
    }
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    let enforced = &limits(&status).enforced;
    let memory = rustix::system::sysinfo();
    let memory = memory.totalram * u64::from(memory.mem_unit);
    assert!(enforced.memory_bytes.unwrap() <= memory / 4 * 3 && enforced.memory_bytes.unwrap() > memory / 2);
    assert_eq!((enforced.pids, enforced.cpu_milli, enforced.file_bytes), (Some(4096), None, Some(64 << 30)));
    assert_eq!(enforced.missing, Vec::<String>::new());
}

#[test]
fn a_tool_that_eats_memory_dies_alone() {
    if without_controllers("a_tool_that_eats_memory_dies_alone") {
        return;
    }
    let installation = Installation::new();
    let before = installation.create_fake_within("box", &[], small());
    let (output, code) = installation.exec("box", EAT);
    assert_eq!(code, 137, "{output}");
    let after = installation.ready("box");
    assert_eq!(gateway(&after), gateway(&before));
    assert_eq!(oom_kills(&installation, "box"), 1);
    assert_eq!(installation.launches("box").len(), 1);
}

#[test]
fn memory_that_a_tool_died_of_is_not_blamed_for_what_ends_the_gateway_later() {
    if without_controllers("memory_that_a_tool_died_of_is_not_blamed_for_what_ends_the_gateway_later") {
        return;
    }
    let installation = Installation::new();
    let mut request = installation.fake("box", &[], true, small());
    let Request::Create(create) = &mut request else { panic!("another request") };
    let AgentChoice::Command { health_url, .. } = &mut create.agent else { panic!("another agent") };
    *health_url = Some("http://127.0.0.1:18789/readyz#every=1s".into());
    installation.ask(&request).unwrap();
    installation.ask(&Request::Onboarded { name: name("box") }).unwrap();
    let mut before = installation.ready("box");
    // It must have answered once between the two: on a busy machine that takes longer than a second.
    let told_apart = [3, 10, 60].into_iter().any(|seconds| {
        let (output, code) = installation.exec("box", EAT);
        assert_eq!(code, 137, "{output}");
        testkit::pause(std::time::Duration::from_secs(seconds));
        kill9(gateway(&before));
        before = installation.ready_after("box", gateway_restarts(&before) + 1);
        let incident = before.last_incident.as_ref().expect("an incident").what.clone();
        !incident.contains("memory")
    });
    assert!(told_apart, "{:?}", before.last_incident);
}

#[test]
fn a_gateway_that_eats_memory_is_killed_comes_back_and_the_cause_is_told() {
    if without_controllers("a_gateway_that_eats_memory_is_killed_comes_back_and_the_cause_is_told") {
        return;
    }
    let installation = Installation::new();
    let bystander = Bystander::new(&installation);
    let before = installation.create_fake_within("box", &[], small());
    let init = testkit::processes::process(gateway(&before)).unwrap().parent;
    order(&before, "eat-memory:600");
    let after = installation.ready_after("box", 1);
    assert_ne!(gateway(&after), gateway(&before));
    assert_eq!(testkit::processes::process(gateway(&after)).unwrap().parent, init, "init was not killed");
    assert_eq!(oom_kills(&installation, "box"), 1);
    let incident = after.last_incident.expect("an incident").what;
    assert!(incident.contains("the sandbox's memory was used up"), "{incident}");
    bystander.assert_unaffected();
}

#[test]
fn a_sandbox_that_is_out_of_memory_as_a_whole_is_ready_again() {
    if without_controllers("a_sandbox_that_is_out_of_memory_as_a_whole_is_ready_again") {
        return;
    }
    let installation = Installation::new();
    let bystander = Bystander::new(&installation);
    installation.create_fake_within("box", &[], small());
    // Half of the memory is taken by files in /tmp, which no kill gives back; many small eaters want the rest.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8; do head -c 16000000 /dev/zero > /tmp/fill$i; done; \
         for i in 1 2 3 4 5 6; do ({EAT}) & done; wait; echo over"
    );
    let (output, code) = installation.exec("box", &script);
    assert!(code == 137 || output.contains("over"), "{code} {output}");
    assert!(oom_kills(&installation, "box") >= 1);
    installation.ready("box");
    assert_eq!(installation.exec("box", "echo well").0, "well\n");
    bystander.assert_unaffected();
}

#[test]
fn a_fork_bomb_in_a_session_leaves_room_to_recover() {
    if without_controllers("a_fork_bomb_in_a_session_leaves_room_to_recover") {
        return;
    }
    let installation = Installation::new();
    let bystander = Bystander::new(&installation);
    let before = installation.create_fake_within("box", &[], small());
    let group = limits(&before).enforced.group.clone().unwrap();
    let mut bomb = installation.command(&["box", "exec", "--", "/bin/sh", "-c", BOMB]).spawn().unwrap();
    wait_until(LONG, "the bomb to be at its limit", || {
        (limits(&installation.status("box")).usage.pids? >= 120).then_some(())
    });
    kill9(gateway(&before));
    installation.ready_after("box", 1);
    let recovered = installation.clawkeep(&["box", "recover"]);
    assert!(recovered.status.success(), "{recovered:?}");
    let status = installation.ready("box");
    assert!(limits(&status).usage.pids.unwrap() <= 160, "{status:?}");
    bystander.assert_unaffected();
    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    assert_eq!(directories(&group), Vec::<PathBuf>::new());
    bomb.wait().unwrap();
}

#[test]
fn a_fork_bomb_of_the_agents_own_ends_with_a_restart() {
    if without_controllers("a_fork_bomb_of_the_agents_own_ends_with_a_restart") {
        return;
    }
    let installation = Installation::new();
    let bystander = Bystander::new(&installation);
    let before = installation.create_fake_within("box", &[], small());
    // Its session is nobody's: it counts as a process that the agent left behind.
    let (output, code) =
        installation.exec("box", &format!("setsid -f sh -c \"{}\"", BOMB.replace('"', "\\\"")));
    assert_eq!(code, 0, "{output}");
    wait_until(LONG, "the bomb to be at its limit", || {
        (limits(&installation.status("box")).usage.pids? >= 120).then_some(())
    });
    installation.ask(&Request::Restart { name: name("box") }).unwrap();
    let after = installation.ready_after("box", 1);
    assert_ne!(gateway(&after), gateway(&before));
    wait_until(LONG, "the bomb to be gone", || {
        (limits(&installation.status("box")).usage.pids? < 60).then_some(())
    });
    bystander.assert_unaffected();
}

#[test]
fn a_full_tmp_does_not_keep_the_gateway_from_coming_back() {
    let installation = Installation::new();
    let bystander = Bystander::new(&installation);
    let before =
        installation.create_fake_within("box", &[], Limits { pids: None, cpu_milli: None, ..small() });
    // In files that are not too large each.
    let fill = "i=0; while head -c 8000000 /dev/zero > /tmp/fill$i; do i=$((i + 1)); done";
    let (output, _) = installation.exec("box", fill);
    assert!(output.contains("No space left on device"), "{output}");
    kill9(gateway(&before));
    let after = installation.ready_after("box", 1);
    assert!(after.guards.iter().all(|guard| guard.state == "verified"), "{after:?}");
    // The state directory is the host's disk: a file there ends at its limit.
    let (output, code) = installation.exec("box", "head -c 99000000 /dev/zero > /sandbox/big; echo $?");
    assert!(output.contains("153") || code == 153, "SIGXFSZ: {code} {output}");
    assert_eq!(std::fs::metadata(installation.files("box").join("big")).unwrap().len(), 16 * MIB);
    bystander.assert_unaffected();
}

#[test]
fn a_flood_of_log_lines_stays_within_its_bounds() {
    let installation = Installation::new();
    let bystander = Bystander::new(&installation);
    let before = installation.create_fake("box", &[]);
    let init = testkit::processes::process(gateway(&before)).unwrap().parent;
    let daemon = bystander.daemon.cast_signed();
    let (daemon_before, init_before) = (resident_kib(daemon), resident_kib(init));
    order(&before, "flood:96");
    let log = installation.home.sandbox(&name("box")).run().join(clawkeep_isolation::LOG);
    // The last that it writes comes after all of the flood.
    order(&before, "crash:3");
    installation.ready_after("box", 1);
    let size = std::fs::metadata(&log).unwrap().len();
    assert!(size <= 8 * MIB, "the log has {size} bytes");
    assert!(installation.log("box").contains("...................."));
    let grown = |pid, before: u64| resident_kib(pid).saturating_sub(before);
    assert!(grown(daemon, daemon_before) < 16 * 1024, "the daemon grew from {daemon_before} KiB");
    assert!(grown(init, init_before) < 4 * 1024, "init grew from {init_before} KiB");
    bystander.assert_unaffected();
}

#[test]
fn many_sandboxes_do_not_end_at_the_usual_limit_of_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let installation = Installation::new();
    // As a shell has it, only tighter; the daemon is started by this process.
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..usual }).unwrap();
    let names: Vec<_> = (1..=10).map(|number| format!("box-{number}")).collect();
    let made: Vec<_> = names.iter().map(|name| installation.create_fake(name, &[])).collect();
    setrlimit(Resource::Nofile, usual).unwrap();
    for (name, before) in names.iter().zip(&made) {
        kill9(gateway(before));
        assert_ne!(gateway(&installation.ready_after(name, 1)), gateway(before));
    }
    assert_eq!(installation.exec("box-10", "ulimit -Sn"), ("1024\n".to_owned(), 0));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let installation = Installation::new();
    let output = installation.clawkeep(&["onboard", "--non-interactive", "--memory", "1M"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && text.contains("the least is 67108864"), "{text}");
    assert!(!installation.home.sandboxes().join("my-assistant").exists());
}

/// Where control groups are not delegated: what is asked for is refused, what is not is told to be missing.
#[test]
fn an_ordinary_user_without_control_groups_is_told_so() {
    let test = "an_ordinary_user_without_control_groups_is_told_so";
    if testkit::Reexec::of(test).user(12_345).run() != testkit::Outcome::Inside {
        return;
    }
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    let enforced = &limits(&status).enforced;
    let told = installation.clawkeep(&["box", "status"]);
    let told = String::from_utf8(told.stdout).unwrap();
    // The machine may have delegated something to this user.
    if Host::look().hierarchy() != Hierarchy::None {
        assert!(enforced.memory_bytes.is_some() && !told.contains("NO LIMIT"), "{told}");
        return;
    }
    assert_eq!((enforced.hierarchy, enforced.memory_bytes), (Hierarchy::None, None));
    assert!(
        told.contains("  NO LIMIT   memory is not limited: no control group is delegated to us"),
        "{told}"
    );
    // The kernel keeps these for every process.
    assert_eq!((enforced.pids, enforced.file_bytes), (Some(4096), Some(64 << 30)));
    let (output, _) = installation.exec("box", "grep -E '^Max processes' /proc/1/limits /proc/self/limits");
    assert!(output.contains("3072"), "{output}");
    let command = ["--agent", "command", "--name", "capped", "--memory", "1G", "--", "sleep", "1000"];
    let output = installation.clawkeep(&[["onboard", "--non-interactive"].as_slice(), &command].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("error[limit-unenforceable]: the limit of memory cannot be enforced: "), "{text}");
    assert!(!output.status.success() && !installation.home.sandbox(&name("capped")).root().exists());
}
