//! Every log of the corpus was written by a real program (`corpus/README.md`). Each cause has logs that must be
//! told by it, and near misses that must not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clawkeep_recovery::{Blame, Cause, Confidence, Diagnosis, Evidence, ExitHow, MAX_EVIDENCE, diagnose};
use proptest::prelude::*;

/// A log with the facts that its name tells: `what+exit-1+disk-0.log`.
struct Case {
    path: PathBuf,
    /// The cause whose directory it is in.
    cause: Cause,
    near_miss: bool,
    log: Vec<u8>,
    exit: Option<ExitHow>,
    oom_kills: u64,
    disk_free: Option<u64>,
    ready_before: bool,
    denied_hosts: Vec<String>,
}

impl Case {
    fn read(path: &Path, cause: Cause, near_miss: bool) -> Self {
        let mut case = Self {
            path: path.to_owned(),
            cause,
            near_miss,
            log: std::fs::read(path).unwrap(),
            exit: None,
            oom_kills: 0,
            disk_free: None,
            ready_before: false,
            denied_hosts: Vec::new(),
        };
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix(".log").unwrap();
        for fact in name.split('+').skip(1) {
            match fact.split_once('-').unwrap_or((fact, "")) {
                ("exit", code) => case.exit = Some(ExitHow::Exited(code.parse().unwrap())),
                ("signal", signal) => case.exit = Some(ExitHow::Signalled(signal.parse().unwrap())),
                ("oom", kills) => case.oom_kills = kills.parse().unwrap(),
                ("disk", free) => case.disk_free = Some(free.parse().unwrap()),
                ("host", host) => case.denied_hosts.push(host.to_owned()),
                ("ready", "") => case.ready_before = true,
                ("alive", "") => {}
                other => panic!("{}: {other:?}", path.display()),
            }
        }
        case
    }

    fn evidence(&self) -> Evidence<'_> {
        Evidence {
            exit: self.exit,
            oom_kills: self.oom_kills,
            log_tail: &self.log,
            denied_syscalls: &[],
            denied_hosts: &self.denied_hosts,
            ready_before: self.ready_before,
            ran_ms: 3_000,
            disk_free: self.disk_free,
        }
    }
}

fn corpus() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let logs = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        paths
    };
    let mut cases = Vec::new();
    for cause in Cause::ALL {
        let dir = root.join(cause.code());
        for (dir, near_miss) in [(dir.clone(), false), (dir.join("near-miss"), true)] {
            let found = logs(&dir);
            assert!(!found.is_empty(), "nothing in {}", dir.display());
            cases.extend(found.iter().map(|path| Case::read(path, cause, near_miss)));
        }
    }
    cases
}

#[test]
fn real_logs_are_told_by_their_cause_and_near_misses_are_not() {
    let mut wrong = Vec::new();
    for case in corpus() {
        let told = diagnose(&case.evidence());
        let sure = told.confidence > Confidence::Weak;
        let right = match case.near_miss {
            true => told.cause != case.cause,
            // What does not end and what nobody knows is never more than a guess.
            false => {
                told.cause == case.cause && sure != matches!(case.cause, Cause::Unknown | Cause::Unresponsive)
            }
        };
        if !right {
            wrong.push(format!("{}: {told:#?}", case.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_evidence_shows_what_decided() {
    let show = |cause: Cause| -> Vec<Diagnosis> {
        corpus()
            .iter()
            .filter(|case| case.cause == cause && !case.near_miss)
            .map(|case| diagnose(&case.evidence()))
            .collect()
    };
    let config = show(Cause::InvalidConfig);
    let says = |what: &str| config.iter().any(|told| told.evidence.iter().any(|line| line.contains(what)));
    assert!(says("Invalid config at") && says("gateway: Unrecognized key: \"colour\""), "{config:?}");
    assert!(config.iter().all(|told| told.blame == Blame::Config), "{config:?}");
    let ciao = show(Cause::CiaoNetworkInterfaces);
    assert!(ciao.iter().all(|told| told.evidence[0] == "exit status 1" && told.blame == Blame::Runtime));
    let unknown = &show(Cause::Unknown)[0];
    assert_eq!(unknown.evidence.last().unwrap(), "[heartbeat] disabled");
    let memory = &show(Cause::OutOfMemory)[0];
    assert_eq!((memory.confidence, memory.blame), (Confidence::Certain, Blame::Environment));
    assert!(show(Cause::OutOfDisk).iter().all(|told| told.confidence == Confidence::Certain));
}

/// An agent can print whatever it likes: alone that is never certain, and never counts against the way in which
/// its process ended.
#[test]
fn a_log_alone_is_never_certain_and_never_beats_the_end() {
    for case in corpus() {
        for (exit, expected) in
            [(ExitHow::Signalled(9), Cause::Killed), (ExitHow::Signalled(11), Cause::NativeCrash)]
        {
            let evidence = Evidence { exit: Some(exit), log_tail: &case.log, ..Evidence::default() };
            assert_eq!(diagnose(&evidence).cause, expected, "{}", case.path.display());
        }
        for exit in [None, Some(ExitHow::Exited(0)), case.exit] {
            let told = diagnose(&Evidence { exit, log_tail: &case.log, ..Evidence::default() });
            assert!(told.confidence < Confidence::Certain, "{}: {told:?}", case.path.display());
            assert!(exit.is_some() || told.blame == Blame::Unknown, "{told:?}");
        }
    }
}

#[test]
fn exit_78_alone_says_nothing() {
    let told = diagnose(&Evidence { exit: Some(ExitHow::Exited(78)), ..Evidence::default() });
    assert_eq!((told.cause, told.confidence, told.blame), (Cause::Unknown, Confidence::Weak, Blame::Unknown));
}

#[test]
fn only_the_kernel_makes_memory_and_system_calls_certain() {
    let killed = Some(ExitHow::Signalled(9));
    let log = b"FATAL ERROR: out of memory\nKilled\nOOM\n";
    let told = diagnose(&Evidence { exit: killed, log_tail: log, ..Evidence::default() });
    assert_eq!((told.cause, told.confidence), (Cause::Killed, Confidence::Likely));
    let told = diagnose(&Evidence { exit: killed, oom_kills: 1, ..Evidence::default() });
    assert_eq!((told.cause, told.confidence), (Cause::OutOfMemory, Confidence::Certain));
    let calls = ["bpf".to_owned()];
    let sys = Some(ExitHow::Signalled(31));
    let told = diagnose(&Evidence { exit: sys, denied_syscalls: &calls, ..Evidence::default() });
    assert_eq!((told.cause, told.confidence), (Cause::DeniedSyscall, Confidence::Certain));
    assert_eq!(told.evidence, ["signal 31", "denied: bpf"]);
}

#[test]
fn denied_calls_are_told_with_every_end_and_are_its_cause_where_the_last_words_name_one() {
    let calls: Vec<String> = ["bpf", "io_uring_setup"].map(String::from).into();
    let told = |exit, log: &str| {
        let exit = Some(ExitHow::Exited(exit));
        let log_tail = log.as_bytes();
        diagnose(&Evidence { exit, log_tail, denied_syscalls: &calls, ..Evidence::default() })
    };
    let named = told(1, "up\nio_uring_setup(8): Operation not permitted\nbye");
    assert_eq!((named.cause, named.confidence), (Cause::DeniedSyscall, Confidence::Likely));
    let line = "io_uring_setup(8): Operation not permitted";
    assert_eq!(named.evidence, ["exit status 1", "denied: bpf, io_uring_setup", line]);
    for (exit, log) in [
        // Another call, no refusal, long ago; and an end that is no failure.
        (1, "keyctl: Operation not permitted".to_owned()),
        (1, "io_uring_setup is slow".to_owned()),
        (1, line.to_owned() + &"\nthen".repeat(20)),
        (0, line.to_owned()),
    ] {
        let told = told(exit, &log);
        assert_eq!((told.confidence, told.blame), (Confidence::Weak, Blame::Unknown), "{log}");
        assert_eq!(told.evidence[1], "denied: bpf, io_uring_setup");
    }
    let many: Vec<String> = (0..9).map(|number| format!("call{number}")).collect();
    let told = diagnose(&Evidence { denied_syscalls: &many, ..Evidence::default() });
    assert_eq!(told.evidence, ["no end", "denied: call0, call1, call2, call3, call4, call5 and 3 more"]);
}

#[test]
fn codes_are_stable_words_and_every_cause_has_its_text() {
    let mut codes = BTreeSet::new();
    for cause in Cause::ALL {
        assert!(codes.insert(cause.code()), "{}", cause.code());
        assert_eq!(serde_json::to_value(cause).unwrap(), cause.code());
        assert_eq!(serde_json::from_value::<Cause>(cause.code().into()).unwrap(), cause);
        let remedy = cause.remedy();
        for text in [cause.summary(), remedy.automatic] {
            assert!(text.ends_with('.') && text.len() < 120, "{text}");
        }
        assert!(remedy.command.is_some_and(|command| !command.is_empty()));
    }
    assert_eq!(serde_json::from_value::<Cause>("of-a-later-version".into()).unwrap(), Cause::Unknown);
}

fn any_exit() -> impl Strategy<Value = Option<ExitHow>> {
    proptest::option::of(prop_oneof![
        any::<i32>().prop_map(ExitHow::Exited),
        (0..256).prop_map(ExitHow::Exited),
        (0..65).prop_map(ExitHow::Signalled),
    ])
}

/// Bytes, and pieces of real logs between them.
fn any_log() -> impl Strategy<Value = Vec<u8>> {
    let logs: Vec<Vec<u8>> = corpus().into_iter().map(|case| case.log).collect();
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        any::<String>().prop_map(String::into_bytes),
        (proptest::sample::select(logs), any::<proptest::sample::Index>(), 0_usize..500).prop_map(
            |(log, at, length)| {
                let from = if log.is_empty() { 0 } else { at.index(log.len()) };
                log[from..log.len().min(from + length)].to_vec()
            }
        ),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_evidence_gives_a_bounded_printable_diagnosis(
        log_tail in any_log(), exit in any_exit(), oom_kills in 0_u64..2, ready_before: bool, ran_ms: u64,
        disk_free: Option<u64>, denied_hosts in proptest::collection::vec(any::<String>(), 0..4),
        denied_syscalls in proptest::collection::vec(any::<String>(), 0..9),
    ) {
        let evidence = Evidence {
            exit, oom_kills, log_tail: &log_tail, denied_syscalls: &denied_syscalls,
            denied_hosts: &denied_hosts, ready_before, ran_ms, disk_free,
        };
        let told = diagnose(&evidence);
        prop_assert!((1..=MAX_EVIDENCE).contains(&told.evidence.len()));
        for line in &told.evidence {
            prop_assert!(line.len() < 400 && !line.chars().any(char::is_control), "{line:?}");
        }
        prop_assert!(told.confidence > Confidence::Weak || told.blame == Blame::Unknown);
        if oom_kills == 0 {
            prop_assert!(told.cause != Cause::OutOfMemory);
        }
        let text = serde_json::to_string(&told).unwrap();
        prop_assert_eq!(serde_json::from_str::<Diagnosis>(&text).unwrap(), told);
    }
}
