//! What a process in a sandbox has been left with, for real: no rights, no keys, no descriptors but its own.

mod support;

use clawkeep_isolation::IdMap;
use clawkeep_isolation::proto::Ended;
use support::Sandbox;

#[test]
fn no_capability_no_group_and_no_way_back_to_them() {
    let mut sandbox = Sandbox::new();
    let (status, _) =
        sandbox.sh("grep -E '^(Cap|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status | tr -s '\t ' ' '");
    let none = "0000000000000000";
    let mut wanted = String::from("Uid: 998 998 998 998\nGid: 998 998 998 998\n");
    let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap().trim_end();
    if matches!(IdMap::for_current_user(7), IdMap::Range { .. }) {
        assert_eq!(groups, "Groups:");
    }
    wanted +=
        &status.lines().find(|line| line.starts_with("Groups:")).map(|line| format!("{line}\n")).unwrap();
    for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
        wanted += &format!("Cap{set}: {none}\n");
    }
    wanted += "NoNewPrivs: 1\n";
    assert_eq!(status, wanted);
    // The secure bits: nothing comes with being root, nor with executing a program, and they are locked.
    let script = "import ctypes; libc = ctypes.CDLL(None); print(hex(libc.prctl(27, 0, 0, 0, 0)), libc.setresuid(0, 0, 0))";
    let Some(output) = sandbox.python("no_capability_no_group_and_no_way_back_to_them", script) else {
        return;
    };
    assert_eq!(output, "0xc3 -1\n");
}

#[test]
fn nobody_inside_may_look_into_init() {
    let mut sandbox = Sandbox::new();
    for path in ["fd", "environ", "maps", "mem", "root", "cwd", "exe", "ns/net", "map_files"] {
        let (output, how) = sandbox.sh(&format!("ls /proc/1/{path}/ || cat /proc/1/{path}"));
        assert_ne!(how, Ended::Exited(0), "{path}: {output}");
    }
    let (output, how) = sandbox.sh("ls /proc/self/fd/ > /dev/null && cat /proc/self/environ > /dev/null");
    assert_eq!((output.as_str(), how), ("", Ended::Exited(0)), "its own it may");
}

#[test]
fn limits_leave_no_dump_and_half_of_what_is_shared_with_the_host() {
    let mut sandbox = Sandbox::new();
    let script = r#"
import os, resource as r
print("core", r.getrlimit(r.RLIMIT_CORE))
print("queues", r.getrlimit(r.RLIMIT_MSGQUEUE))
print("locked", r.getrlimit(r.RLIMIT_MEMLOCK)[0])
print("signals", r.getrlimit(r.RLIMIT_SIGPENDING)[0])
os.chdir("/sandbox")
pid = os.fork()
if pid == 0: os.abort()
status = os.waitpid(pid, 0)[1]
print("aborted", os.WTERMSIG(status), "dumped", os.WCOREDUMP(status), "left", os.listdir("."))
"#;
    let Some(output) =
        sandbox.python("limits_leave_no_dump_and_half_of_what_is_shared_with_the_host", script)
    else {
        return;
    };
    let half = |resource, of_unlimited: u64| {
        rustix::process::getrlimit(resource).current.unwrap_or(of_unlimited) / 2
    };
    let locked = half(rustix::process::Resource::Memlock, 128 << 20);
    let signals = half(rustix::process::Resource::Sigpending, 16_384);
    let wanted = format!(
        "core (1, 1)\nqueues (0, 0)\nlocked {locked}\nsignals {signals}\naborted 6 dumped False left []\n"
    );
    assert_eq!(output, wanted);
}

#[test]
fn no_descriptor_and_no_key_of_the_host_side_gets_in() {
    let test = "no_descriptor_and_no_key_of_the_host_side_gets_in";
    if !support::has_python(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        r#"
os.set_inheritable(os.open("/", os.O_RDONLY), True)
os.dup2(1, 777)
assert libc.syscall({keyctl}, 1, b"clawkeep-test") >= 0
assert libc.syscall({add_key}, b"user", b"clawkeep-test", b"x", 1, -3) >= 0"#,
        keyctl = libc::SYS_keyctl,
        add_key = libc::SYS_add_key
    );
    let program = support::setup_after(dir.path(), &script);
    let mut sandbox = Sandbox::by(&program, dir, |_| {});
    let (keys, _) = sandbox.sh("cat /proc/keys");
    assert_eq!(keys, "", "a keyring that it may look at");
    // The last one is that of the list itself.
    let script = "import os; print([fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')])";
    assert_eq!(sandbox.python(test, script).as_deref(), Some("['0', '1', '2']\n"));
}
