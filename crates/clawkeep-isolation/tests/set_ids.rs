//! No file of a sandbox's gets a set-id bit, in either tier; what programs do with modes every day goes on.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use clawkeep_isolation::proto::Ended;
use clawkeep_isolation::{Mount, MountAccess};
use support::Sandbox;
use testkit::{Outcome, Reexec};

/// All ways to get one that the kernel has but openat2(2), whose mode no filter sees, each with its answer; `$PWD` is a directory of the agent's.
const ATTEMPTS: &str = r#"
import ctypes, errno, os, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, do):
    try:
        print(name, do() or "done")
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error.errno))
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def made(name, flags, mode):
    os.close(os.open(name, flags | os.O_CREAT | os.O_WRONLY, mode))
    return oct(os.stat(name).st_mode)
def nameless(mode):
    fd = os.open(".", os.O_TMPFILE | os.O_WRONLY, mode)
    return oct(os.fstat(fd).st_mode)
os.umask(0)
print("created", made("f", 0, 0o755))
fd = os.open("f", os.O_RDONLY)
for bits in (0o4755, 0o2755, 0o6000, 0o4000):
    attempt("chmod", lambda: os.chmod("f", bits))
    attempt("fchmod", lambda: os.chmod(fd, bits))
    attempt("fchmodat", lambda: os.chmod("f", bits, dir_fd=os.open(".", os.O_RDONLY)))
    attempt("fchmodat2", lambda: call(452, -100, b"f", bits, 0))
    attempt("open", lambda: made("g", 0, bits))
    attempt("nameless", lambda: nameless(bits))
    attempt("mknod", lambda: os.mknod("h", stat.S_IFREG | bits))
    if os.uname().machine == "x86_64":
        attempt("old-open", lambda: call(2, b"g", os.O_CREAT | os.O_WRONLY, bits))
        attempt("creat", lambda: call(85, b"g", bits))
        attempt("old-chmod", lambda: call(90, b"f", bits))
        attempt("old-mknod", lambda: call(133, b"h", stat.S_IFREG | bits, 0))
os.mkdir("d", 0o6777)
print("directory", oct(os.stat("d").st_mode))
# What is not a mode for anybody.
attempt("read", lambda: os.close(os.open("f", os.O_RDONLY, 0o6000)))
attempt("sticky", lambda: os.chmod("d", 0o1777))
attempt("plain", lambda: os.chmod("f", 0o777))
attempt("fifo", lambda: os.mkfifo("p", 0o666))
attempt("nameless-plain", lambda: nameless(0o600))
attempt("all", lambda: [n for n in os.listdir(".") if os.lstat(n).st_mode & 0o6000 and n not in sys.argv] or "none")
"#;

fn outcomes() -> String {
    let old: &[&str] =
        if cfg!(target_arch = "x86_64") { &["old-open", "creat", "old-chmod", "old-mknod"] } else { &[] };
    let refused = ["chmod", "fchmod", "fchmodat", "fchmodat2", "open", "nameless", "mknod"];
    let round: String = refused.iter().chain(old).map(|name| format!("{name} EPERM\n")).collect();
    format!(
        "created 0o100755\n{}directory 0o40777\nread done\nsticky done\nplain done\nfifo done\n\
         nameless-plain 0o100600\nall none\n",
        round.repeat(4)
    )
}

fn attempts_in(sandbox: &mut Sandbox, directory: &str) -> (String, Ended) {
    let script = format!("cd {directory} && exec /usr/bin/python3 -c '{ATTEMPTS}'");
    sandbox.run(&["/bin/sh", "-c", &script])
}

/// A directory of the host's that the agent may write to, with the ids that it belongs to there.
fn shared(dir: &Path, owner: (u32, u32)) -> Mount {
    let source = dir.canonicalize().unwrap().join("shared");
    std::fs::create_dir(&source).unwrap();
    std::os::unix::fs::chown(&source, Some(owner.0), Some(owner.1)).unwrap();
    let access = MountAccess::Shared { uid: owner.0, gid: owner.1 };
    Mount { source, target: "/srv/shared".into(), access }
}

fn holds_in_namespaces(owner: (u32, u32)) {
    let dir = tempfile::tempdir().unwrap();
    let mount = shared(dir.path(), owner);
    let place = mount.source.clone();
    let mut sandbox = Sandbox::by(support::program(), dir, |spec| spec.mounts.push(mount));
    for directory in ["/sandbox", "/tmp", "/srv/shared"] {
        assert_eq!(attempts_in(&mut sandbox, directory), (outcomes(), Ended::Exited(0)), "{directory}");
    }
    // As the host sees them.
    for entry in std::fs::read_dir(place).unwrap() {
        let found = entry.unwrap().metadata().unwrap();
        assert_eq!((found.permissions().mode() & 0o6000, found.uid()), (0, owner.0));
    }
}

#[test]
fn no_file_gets_a_set_id_bit() {
    let test = "no_file_gets_a_set_id_bit";
    if !support::has_python(test) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} shares a directory of somebody else's, as root");
        return;
    }
    holds_in_namespaces((12_345, 12_345));
}

#[test]
fn no_file_of_an_ordinary_users_gets_a_set_id_bit() {
    let test = "no_file_of_an_ordinary_users_gets_a_set_id_bit";
    if support::has_python(test) && Reexec::of(test).user(12_345).run() == Outcome::Inside {
        holds_in_namespaces((12_345, 12_345));
    }
}

#[test]
fn no_file_gets_one_in_the_lower_tier_either() {
    let test = "no_file_gets_one_in_the_lower_tier_either";
    if !support::has_python(test) {
        return;
    }
    if clawkeep_isolation::landlock_abi() < 6 {
        eprintln!("SKIPPED: {test} needs Landlock ABI 6");
        return;
    }
    let holds = || {
        let mut sandbox = Sandbox::beside(vec![]);
        let home = sandbox.dir.path().join("home").display().to_string();
        assert_eq!(attempts_in(&mut sandbox, &home), (outcomes(), Ended::Exited(0)));
    };
    // As root, whose agent has ids of its own; then as a user, whose modes init sets.
    match Reexec::of(test).user(12_345).run() {
        Outcome::Inside => holds(),
        Outcome::Passed if rustix::process::geteuid().is_root() => holds(),
        Outcome::Passed | Outcome::Skipped => {}
    }
}

/// Programs that set modes, by the way in which each is used every day.
const EVERY_DAY: &[(&str, &[&str], &str)] = &[
    (
        "tar",
        &["/usr/bin/tar"],
        "mkdir t && printf x >t/run && chmod 755 t/run && printf x >t/secret && chmod 600 t/secret && tar -cf t.tar t && \
         rm -r t && tar -xpf t.tar && stat -c %a t/run t/secret && mkdir u && tar -xf t.tar -C u && stat -c %a u/t/run",
    ),
    (
        "cp, install",
        &["/usr/bin/install"],
        "printf x >c && chmod 750 c && cp -p c c2 && cp -a c c3 && stat -c %a c2 c3 && install -m 711 c i && \
         install -d -m 1777 j && stat -c %a i j && cp -p /usr/bin/su s && stat -c %a s && mkfifo -m 640 q && stat -c %a q",
    ),
    (
        "git",
        &["/usr/bin/git", "/usr/local/bin/git"],
        "git init -q g && cd g && git config user.name n && git config user.email e && printf x >f && chmod 755 f && \
         git add f && git commit -qm m && cd .. && git clone -q g h && stat -c %a h/f && git -C h fsck",
    ),
    (
        "npm",
        &["/usr/bin/npm"],
        "mkdir -p p/package && cd p && printf '{\"name\":\"tool\",\"version\":\"1.0.0\",\"bin\":\"tool.js\"}' >package/package.json && \
         printf '#!/usr/bin/env node\\nconsole.log(\"tool runs\")\\n' >package/tool.js && chmod 644 package/tool.js && \
         tar -czf tool.tgz package && printf '{}' >package.json && \
         npm i --offline --no-audit --no-fund --loglevel=error ./tool.tgz >npm.log 2>&1 || cat npm.log; ./node_modules/.bin/tool",
    ),
];

const EVERY_DAY_SAYS: &[&str] =
    &["755\n600\n755\n", "750\n750\n711\n1777\n755\n640\n", "755\n", "tool runs\n"];

#[test]
fn what_sets_modes_every_day_goes_on() {
    let mut sandbox = Sandbox::new();
    for ((name, programs, script), says) in EVERY_DAY.iter().zip(EVERY_DAY_SAYS) {
        if !programs.iter().any(|program| Path::new(program).exists()) {
            eprintln!("SKIPPED: what_sets_modes_every_day_goes_on with {name}: it is not on this host");
            continue;
        }
        let script = format!(
            "export PATH=/usr/local/bin:/usr/bin:/bin HOME=/sandbox; cd /tmp && umask 022 && {script}"
        );
        assert_eq!(sandbox.sh(&script), ((*says).to_owned(), Ended::Exited(0)), "{name}");
    }
    // Not one of them so much as asked for what is refused here.
    sandbox.ask(clawkeep_isolation::proto::Order::Hello, &[]);
    let denied =
        sandbox.events.iter().find(|event| matches!(event, clawkeep_isolation::proto::Event::Denied { .. }));
    assert!(denied.is_none(), "{denied:?}");
}
