//! What can be on the disk after a power cut, and what is there after a kill at any system call.
//!
//! A program is run once under strace(1) and its changes to one directory are recorded ([`Trace`]). From them
//! every state is made that POSIX lets a disk be in when the power goes between two of the calls: what was
//! synced is there; of what was not, all, nothing, the names without the bytes, the bytes without the names, or
//! anything between ([`Loss`]). The same trace says at which calls to kill the program, or to make one fail
//! ([`Point`]).

mod disk;
mod parse;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

pub use disk::{Disk, Loss};
use parse::{Call, Effect};

use crate::Rng;

/// What a program did to one directory, in order.
#[derive(Debug)]
pub struct Trace {
    effects: Vec<Effect>,
    points: Vec<Point>,
    /// How many effects there were when each word was said.
    said: Vec<usize>,
}

/// One system call of a traced program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The call, as strace(1) names it.
    pub call: String,
    /// The how manieth of this name in its thread, from 1.
    pub when: usize,
}

/// What happens at a [`Point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed before the call is carried out.
    Kill,
    /// The call fails with this error: `ENOSPC`.
    Error(&'static str),
}

/// Whether strace(1) is there and may trace.
pub fn can_trace() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().is_ok_and(|status| status.success())
}

impl Trace {
    /// Run this program under strace(1) and record what it does below `root`, which is empty still. It says
    /// `done` on its standard output, at the beginning of a line, for each thing that must outlive everything
    /// from then on.
    ///
    /// # Panics
    /// When strace(1) cannot run, or the program fails.
    pub fn record(root: &Path, program: &Command) -> Self {
        let file = root.with_extension("strace");
        let mut strace = Command::new("strace");
        let calls = format!("trace={}", parse::CALLS.join(","));
        strace.args(["--seccomp-bpf", "-f", "-y", "-xx", "-s", "16777216", "-e", &calls, "-o"]).arg(&file);
        let status = run(&mut strace, program, Stdio::null());
        assert!(status.success(), "the traced program failed: {status}");
        let text = std::fs::read_to_string(&file).expect("strace wrote its file");
        std::fs::remove_file(&file).expect("our own file");
        Self::of(root, &text)
    }

    fn of(root: &Path, text: &str) -> Self {
        let mut trace = Self { effects: Vec::new(), points: Vec::new(), said: Vec::new() };
        let mut parser = parse::Parser::new(root);
        for line in text.lines() {
            match parser.line(line) {
                Some(Call::Said(times)) => {
                    trace.said.extend(std::iter::repeat_n(trace.effects.len(), times));
                }
                Some(Call::Did(point, effects)) => {
                    trace.points.push(point);
                    trace.effects.extend(effects);
                }
                None => {}
            }
        }
        trace
    }

    /// After how many of the effects the power can go: 0 to this.
    pub fn cuts(&self) -> usize {
        self.effects.len()
    }

    /// How often the program had said `done` when the power went here.
    pub fn done_at(&self, cut: usize) -> usize {
        self.said.iter().filter(|at| **at <= cut).count()
    }

    /// The system calls that changed something below the root, or tried to.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// What is on the disk when the power goes after this many effects.
    pub fn disk(&self, cut: usize, loss: Loss, rng: &mut Rng) -> Disk {
        disk::after(&self.effects[..cut], loss, rng)
    }
}

impl Point {
    /// Run this program and let this happen to it there. What it says goes into this file.
    ///
    /// # Panics
    /// When strace(1) cannot run.
    pub fn inject(&self, fault: Fault, program: &Command, said: &Path) -> ExitStatus {
        let mut strace = Command::new("strace");
        let what = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(error) => format!("error={error}"),
        };
        let inject = format!("inject={}:{what}:when={}", self.call, self.when);
        let trace = format!("trace={}", self.call);
        strace.args(["--seccomp-bpf", "-f", "-e", &trace, "-e", &inject, "-o", "/dev/null"]);
        run(&mut strace, program, std::fs::File::create(said).expect("a file for what it says").into())
    }
}

/// Strace passes the program's own end on: its exit status, or its signal.
fn run(strace: &mut Command, program: &Command, said: Stdio) -> ExitStatus {
    strace.arg("--").arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace.stdin(Stdio::null()).stdout(said).stderr(Stdio::null());
    strace.status().expect("strace(1) runs")
}

/// In the traced program, before it begins: strace(1) counts the calls of each thread, and a test has a main
/// thread besides. Its own counts are brought beyond those of the harness, so that each [`Point`] is met once.
///
/// # Panics
/// When `/dev/null` cannot be written.
pub fn leave_the_harness_behind() {
    use std::io::Write;
    for _ in 0..100 {
        std::fs::File::options()
            .write(true)
            .open("/dev/null")
            .and_then(|mut f| f.write_all(b"."))
            .expect("a null device");
    }
}

/// A directory for states of a disk: in memory where there is one, for there are thousands of states.
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

#[cfg(test)]
#[path = "powercut/tests.rs"]
mod tests;
