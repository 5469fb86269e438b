//! What the known causes leave in a log, and which ends of the process agree with it. Every text is what the
//! real programs print; `tests/corpus` has it.

use super::lines::clip;
use super::{Cause, ExitHow};

/// How far apart the lines of one sign may be.
const NEAR: usize = 40;

/// What is looked for in a line.
enum Find {
    /// Anywhere in it.
    Has(&'static str),
    /// All of it.
    Is(&'static str),
    /// Its beginning.
    Starts(&'static str),
    /// The first line of an error as JavaScript prints it: `TypeError: ...`, `[RangeError: ...]`.
    ErrorHead,
}

use Find::{ErrorHead, Has, Is, Starts};

impl Find {
    fn is_in(&self, line: &str) -> bool {
        match self {
            Has(text) => line.contains(text),
            Is(text) => line == *text,
            Starts(text) => line.starts_with(text),
            ErrorHead => {
                let word = line.trim_start_matches('[').split([':', ' ']).next().unwrap_or_default();
                ["Error", "Exception", "Rejection"].iter().any(|kind| word.ends_with(kind))
            }
        }
    }
}

/// Which ends of the process a text agrees with.
#[derive(Clone, Copy)]
enum Ends {
    /// Any exit status.
    Exit,
    /// A status that says failure.
    Failure,
    /// Failure, or the process aborted.
    FailureOrAbort,
    /// The process aborted (abort(3), or a trap).
    Abort,
}

impl Ends {
    fn agree_with(self, exit: ExitHow) -> bool {
        // A shell in between turns a signal into 128 and its number.
        let aborted = matches!(exit, ExitHow::Signalled(4..=6) | ExitHow::Exited(132..=134));
        let failed = matches!(exit, ExitHow::Exited(code) if code != 0);
        match self {
            Self::Exit => matches!(exit, ExitHow::Exited(_)),
            Self::Failure => failed && !aborted,
            Self::FailureOrAbort => failed || aborted,
            Self::Abort => aborted,
        }
    }
}

/// Lines that must follow one another, all of them.
struct Sign {
    cause: Cause,
    ends: Ends,
    lines: &'static [Find],
}

const fn sign(cause: Cause, ends: Ends, lines: &'static [Find]) -> Sign {
    Sign { cause, ends, lines }
}

const SIGNS: &[Sign] = &[
    sign(Cause::CiaoNetworkInterfaces, Ends::Failure, &[Has("uv_interface_addresses returned ")]),
    sign(Cause::MissingPreload, Ends::Failure, &[Has("Cannot find module '"), Is("- internal/preload")]),
    // 2026.4.9, then 2026.9.6.
    sign(Cause::NodeTooOld, Ends::Failure, &[Starts("openclaw: Node.js v"), Starts("If you use nvm")]),
    sign(Cause::NodeTooOld, Ends::Failure, &[Starts("openclaw: Node "), Starts("If you use nvm")]),
    sign(Cause::InvalidConfig, Ends::Failure, &[Is("Config invalid"), Starts("Problem:"), Starts("- ")]),
    // With what is wrong in it, where that is told.
    sign(
        Cause::InvalidConfig,
        Ends::Failure,
        &[Starts("Gateway failed to start: Invalid config at "), Starts("openclaw.json:")],
    ),
    sign(Cause::InvalidConfig, Ends::Failure, &[Starts("Gateway failed to start: Invalid config at ")]),
    sign(
        Cause::InvalidConfig,
        Ends::Failure,
        &[Starts("Gateway start blocked: existing config is missing gateway.mode.")],
    ),
    sign(Cause::InvalidConfig, Ends::Failure, &[Starts("Missing config. Run `openclaw setup`")]),
    sign(Cause::MissingModule, Ends::Failure, &[Has("Error [ERR_MODULE_NOT_FOUND]: ")]),
    sign(Cause::MissingModule, Ends::Failure, &[Starts("Error: Cannot find module '"), Starts("Node.js v")]),
    sign(Cause::MissingModule, Ends::Failure, &[Starts("Gateway failed to start: Cannot find module '")]),
    sign(Cause::MissingModule, Ends::Failure, &[Starts("Error: openclaw: missing dist/entry.")]),
    // The loader read it: no text that the agent evaluates has such a frame.
    sign(
        Cause::MissingModule,
        Ends::Failure,
        &[Starts("SyntaxError: "), Has("node:internal/modules/"), Starts("Node.js v")],
    ),
    sign(
        Cause::HeapLimit,
        Ends::Abort,
        &[Has(" JavaScript heap out of memory"), Starts("----- Native stack trace")],
    ),
    sign(Cause::HealthyTwin, Ends::Exit, &[Has(": another OpenClaw process owns gateway-lifecycle")]),
    sign(
        Cause::HealthyTwin,
        Ends::Exit,
        &[Starts("Gateway failed to start: gateway already running (pid N)")],
    ),
    sign(
        Cause::HealthyTwin,
        Ends::Exit,
        &[Starts("Gateway failed to start: "), Starts("- Gateway already running locally.")],
    ),
    sign(Cause::StaleLock, Ends::Exit, &[Starts("Gateway failed to start: gateway already running; lock ")]),
    sign(Cause::OutOfDisk, Ends::Failure, &[Has("ENOSPC: no space left on device")]),
    sign(Cause::OutOfDisk, Ends::Failure, &[Has("database or disk is full")]),
    sign(Cause::OutOfDisk, Ends::Failure, &[Has("No space left on device")]),
    sign(Cause::FileSizeLimit, Ends::Failure, &[Has("EFBIG: file too large")]),
    sign(Cause::TooManyProcesses, Ends::FailureOrAbort, &[Starts("Error: spawn "), Has("code: 'EAGAIN'")]),
    sign(Cause::TooManyProcesses, Ends::FailureOrAbort, &[Has(": fork: Resource temporarily unavailable")]),
    sign(Cause::TooManyProcesses, Ends::Abort, &[Has("Assertion failed: (0) == (uv_thread_create(")]),
    sign(Cause::TooManyFiles, Ends::Failure, &[Has("EMFILE: too many open files, ")]),
    sign(Cause::TooManyFiles, Ends::Failure, &[Has("ENFILE: file table overflow")]),
    // OpenSSL's names of the faults, as Node gives them (tls, X509 certificate error codes).
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'DEPTH_ZERO_SELF_SIGNED_CERT'")]),
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'SELF_SIGNED_CERT_IN_CHAIN'")]),
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'UNABLE_TO_VERIFY_LEAF_SIGNATURE'")]),
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'UNABLE_TO_GET_ISSUER_CERT")]),
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'CERT_HAS_EXPIRED'")]),
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'CERT_NOT_YET_VALID'")]),
    sign(Cause::TlsFailure, Ends::Failure, &[ErrorHead, Has("'ERR_TLS_CERT_ALTNAME_INVALID'")]),
    sign(Cause::PortTaken, Ends::Exit, &[Has("listen EADDRINUSE: address already in use ")]),
    sign(Cause::UncaughtError, Ends::Failure, &[Starts("[openclaw] Unhandled promise rejection: ")]),
    sign(Cause::UncaughtError, Ends::Failure, &[Starts("[openclaw] Uncaught exception: ")]),
    // Node ends so what nothing caught, and nothing else.
    sign(Cause::UncaughtError, Ends::Failure, &[ErrorHead, Starts("Node.js v")]),
];

/// A sign that is there.
pub(super) struct Found {
    pub cause: Cause,
    /// Whether the end of the process agrees; `false` where it has not ended.
    pub agrees: bool,
    pub lines: Vec<String>,
}

/// Every sign in these lines, the latest of each.
pub(super) fn find(lines: &[String], exit: Option<ExitHow>) -> Vec<Found> {
    let found = |sign: &Sign| {
        let found = follow(lines, sign.lines)?;
        Some(Found {
            cause: sign.cause,
            agrees: exit.is_some_and(|exit| sign.ends.agree_with(exit)),
            lines: found.into_iter().map(|line| clip(line, super::EVIDENCE_LINE)).collect(),
        })
    };
    SIGNS.iter().filter_map(found).collect()
}

/// The last place where these follow one another, near by; two may be met by one line.
fn follow<'a>(lines: &'a [String], wanted: &[Find]) -> Option<Vec<&'a str>> {
    let (first, rest) = wanted.split_first()?;
    (0..lines.len()).rev().filter(|at| first.is_in(&lines[*at])).find_map(|at| {
        let near = &lines[at..lines.len().min(at + NEAR)];
        let (mut met, mut from) = (vec![near[0].as_str()], 0);
        for find in rest {
            let next = from + near[from..].iter().position(|line| find.is_in(line))?;
            if next != from {
                met.push(&near[next]);
            }
            from = next;
        }
        Some(met)
    })
}

/// The last line that tells of one of these hosts, refused.
pub(super) fn denied_host(lines: &[String], hosts: &[String]) -> Option<(String, String)> {
    // A name that short would be found in anything.
    let hosts: Vec<&String> = hosts.iter().take(64).filter(|host| host.len() > 3).collect();
    let refused = |line: &str| line.contains("ERR_PROXY_TUNNEL") || line.contains("fetch failed");
    lines.iter().rev().find_map(|line| {
        let host = hosts.iter().find(|host| line.contains(host.as_str()));
        let tunnel = line.contains("Proxy response (403) !== 200");
        let host = host.filter(|_| refused(line)).or(hosts.last().filter(|_| tunnel))?;
        Some((clip(line, super::EVIDENCE_LINE), (*host).clone()))
    })
}

/// How far from the end of a log a program tells of the call that it gives up over.
const LAST_WORDS: usize = 20;

/// The last line that tells of one of these system calls that it was not permitted.
pub(super) fn denied_call(lines: &[String], calls: &[String]) -> Option<String> {
    let refused = |line: &str| line.contains("EPERM") || line.contains("peration not permitted");
    let line = lines.iter().rev().take(LAST_WORDS).find(|line| {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        refused(line) && words.any(|word| calls.iter().any(|call| call == word))
    })?;
    Some(clip(line, super::EVIDENCE_LINE))
}
