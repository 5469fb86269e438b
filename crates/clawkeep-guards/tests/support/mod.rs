//! Runs guards in real Node, on request under a seccomp filter that refuses netlink.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use clawkeep_guards::all;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// One run of Node in a directory of its own.
pub struct Run {
    pub dir: tempfile::TempDir,
    guards: Vec<&'static str>,
    env: Vec<(String, String)>,
    flags: Vec<&'static str>,
    args: Vec<&'static str>,
    netlink: bool,
    receipt: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// How many lines of stderr contain this text.
    pub fn said(&self, text: &str) -> usize {
        self.stderr.lines().filter(|line| line.contains(text)).count()
    }
}

/// A run with these guards loaded in this order. Netlink works unless told otherwise.
pub fn with(guards: &[&'static str]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    for guard in all() {
        fs::write(dir.path().join(guard.file_name()), guard.source).unwrap();
    }
    let own = dir.path().canonicalize().unwrap().display().to_string();
    Run {
        dir,
        guards: guards.to_vec(),
        env: vec![("TMPDIR".to_owned(), own)],
        flags: Vec::new(),
        args: Vec::new(),
        netlink: true,
        receipt: false,
    }
}

impl Run {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The environment that makes the process the gateway.
    pub fn gateway(self) -> Self {
        self.env("CLAWKEEP_PROCESS", "openclaw-gateway")
    }

    pub fn args(mut self, args: &[&'static str]) -> Self {
        self.args = args.to_vec();
        self
    }

    /// A flag for Node itself.
    pub fn flag(mut self, flag: &'static str) -> Self {
        self.flags.push(flag);
        self
    }

    /// Under a filter that answers EPERM to socket(AF_NETLINK).
    pub fn without_netlink(mut self) -> Self {
        self.netlink = false;
        self
    }

    /// A receipt pipe on descriptor 3; what is written to it is the stdout of the run.
    pub fn receipt(mut self, guards: usize) -> Self {
        self.receipt = true;
        self.env("CLAWKEEP_RECEIPT_FD", "3").env("CLAWKEEP_RECEIPT_GUARDS", &guards.to_string())
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Runs this CommonJS program.
    pub fn js(&self, program: &str) -> Ended {
        self.script("program.cjs", program)
    }

    /// Runs a program under this file name.
    pub fn script(&self, name: &str, program: &str) -> Ended {
        let path = self.dir.path().join(name);
        fs::write(&path, program).unwrap();
        let options: Vec<_> = self
            .guards
            .iter()
            .map(|guard| format!("--require {}/{guard}.js", self.dir.path().display()))
            .collect();
        // `timeout`, so that a hanging Node fails the test instead of hanging it.
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60"]);
        if self.receipt {
            // RECEIPT_PIPE names the pipe, so that a program can tell whether it still holds it.
            let exec = "export RECEIPT_PIPE=$(readlink /proc/$$/fd/1); exec \"$0\" \"$@\" 3>&1 1>/dev/null";
            command.args(["sh", "-c", exec]);
        }
        command.arg(node()).args(&self.flags).arg(path).args(&self.args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("NODE_OPTIONS", options.join(" ")).envs(self.env.iter().cloned());
        command.current_dir(self.dir.path());
        ended(run(command, self.netlink))
    }
}

/// Node: `CLAWKEEP_TEST_NODE`, else the one on the path.
pub fn node() -> String {
    std::env::var("CLAWKEEP_TEST_NODE").unwrap_or_else(|_| "node".to_owned())
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(mut command: Command, netlink: bool) -> Output {
    if netlink {
        return command.output().expect("these tests need Node on the path");
    }
    // A filter holds for the thread that asks for it and for what that thread starts, so a thread of its own
    // keeps it away from the other tests.
    std::thread::spawn(move || {
        seccompiler::apply_filter(&no_netlink()).unwrap();
        command.output().expect("these tests need Node on the path")
    })
    .join()
    .unwrap()
}

fn no_netlink() -> BpfProgram {
    let family = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::try_from(libc::AF_NETLINK).unwrap(),
    )
    .unwrap();
    let rules = [(libc::SYS_socket, vec![SeccompRule::new(vec![family]).unwrap()])];
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap());
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    SeccompFilter::new(rules.into_iter().collect(), SeccompAction::Allow, refuse, arch)
        .unwrap()
        .try_into()
        .unwrap()
}

/// Whether these tests run as root; says which test is skipped if not.
pub fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {test} needs root (it makes files of other owners)");
    }
    root
}

/// The names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
