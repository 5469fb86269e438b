use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::InstallError;
use crate::Cancel;

/// How much of npm's error output is kept, in bytes.
const TAIL: usize = 8 * 1024;

/// The npm that installs. It is only a fetcher: every version and digest is pinned by us, and no package's
/// script is run.
#[derive(Debug, Clone)]
pub struct Npm {
    program: PathBuf,
    path: OsString,
}

impl Npm {
    /// The npm on the PATH of this process.
    ///
    /// # Errors
    /// [`InstallError::NpmMissing`].
    pub fn on_path() -> Result<Self, InstallError> {
        Self::in_path(&std::env::var_os("PATH").unwrap_or_default())
    }

    /// The npm on the given PATH, which it also runs with.
    ///
    /// # Errors
    /// [`InstallError::NpmMissing`].
    pub fn in_path(path: &OsStr) -> Result<Self, InstallError> {
        std::env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join("npm"))
            .find(|file| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
            .map(|program| Self { program, path: path.to_owned() })
            .ok_or(InstallError::NpmMissing)
    }

    /// The same npm, run by the `node` in this directory, if it can be: npm leaves out optional packages that
    /// do not fit the Node that runs it, so the host's old Node would silently give another tree.
    pub(super) fn with_node_in(&self, dir: &Path, run: &Run<'_>) -> Result<Self, InstallError> {
        let path =
            std::env::join_paths([dir.to_owned()].into_iter().chain(std::env::split_paths(&self.path)));
        let Ok(path) = path else { return Ok(self.clone()) };
        let other = Self { program: self.program.clone(), path };
        // Some distributions' npm works only with their own Node.
        match other.run(&["--version"], run, &mut || ()) {
            Ok(()) => Ok(other),
            Err(InstallError::Cancelled) => Err(InstallError::Cancelled),
            Err(_) => Ok(self.clone()),
        }
    }

    /// Run npm to its end; `tick` is called a few times a second. When the flag is raised its whole process
    /// group is killed.
    pub(super) fn run(
        &self,
        args: &[&str],
        run: &Run<'_>,
        tick: &mut dyn FnMut(),
    ) -> Result<(), InstallError> {
        let io = |what: &str, source| InstallError::io(what, &self.program, source);
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(run.cwd).process_group(0);
        // An orphaned npm of a killed installer keeps the lock through this descriptor until it has ended, so
        // no one clears the staging directory under it. npm reads an empty file from it.
        command.stdin(Stdio::from(run.lock.try_clone().map_err(|e| io("dup", e))?));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("PATH", &self.path).env("TMPDIR", run.tmp).env("npm_config_cache", run.cache);
        command.env("npm_config_logs_max", "0").env("NODE_DISABLE_COMPILE_CACHE", "1");
        command.env_remove("NODE_OPTIONS").env_remove("NODE_PATH");
        let mut child = command.spawn().map_err(|e| io("start", e))?;
        let group = Pid::from_child(&child);
        let stderr = child.stderr.take();
        let reader = std::thread::spawn(move || stderr.map(tail).unwrap_or_default());
        // Seen, not reaped: until it is reaped the group's number is taken, and the kill below hits no other.
        let seen = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let mut cancelled = false;
        while !cancelled && matches!(waitid(WaitId::Pid(group), seen), Ok(None) | Err(Errno::INTR)) {
            tick();
            cancelled = run.cancel.wait(Duration::from_millis(100));
        }
        // On a cancel all of it, else what it left running.
        let _ = kill_process_group(group, Signal::KILL);
        let status = child.wait().map_err(|e| io("wait for", e))?;
        let tail = reader.join().unwrap_or_default();
        if cancelled {
            return Err(InstallError::Cancelled);
        }
        if status.success() { Ok(()) } else { Err(classify(status, &tail, run.root)) }
    }
}

/// Where and for whom npm runs.
pub(super) struct Run<'a> {
    pub root: &'a Path,
    pub cwd: &'a Path,
    pub tmp: &'a Path,
    pub cache: &'a Path,
    pub lock: &'a File,
    pub cancel: &'a Cancel,
}

/// The last [`TAIL`] bytes that the reader gives.
fn tail(mut reader: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut block = [0_u8; 4096];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return kept,
            Ok(n) => kept.extend_from_slice(&block[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
        if kept.len() > TAIL {
            kept.drain(..kept.len() - TAIL);
        }
    }
}

/// What npm's error output means. npm (all versions) says `npm error code X` or `npm ERR! code X`.
fn classify(status: ExitStatus, tail: &[u8], root: &Path) -> InstallError {
    let text = redact(&String::from_utf8_lossy(tail));
    let code = text.lines().find_map(|line| {
        let rest = line.strip_prefix("npm error code ").or_else(|| line.strip_prefix("npm ERR! code "))?;
        Some(rest.trim().to_owned())
    });
    match code.as_deref() {
        Some(
            "ENOTFOUND" | "ECONNREFUSED" | "ECONNRESET" | "EAI_AGAIN" | "ETIMEDOUT" | "ENETUNREACH"
            | "EHOSTUNREACH" | "ENETDOWN" | "ERR_SOCKET_TIMEOUT" | "ENOTCACHED",
        ) => InstallError::Offline { code: code.unwrap_or_default() },
        Some("ENOSPC" | "EDQUOT") => InstallError::DiskFull { at: root.to_owned(), missing: None },
        Some("EACCES" | "EPERM" | "EROFS") => InstallError::NoPermission { what: last_lines(&text) },
        Some("EINTEGRITY") => {
            InstallError::IntegrityMismatch { package: "a package of the bundle (npm: EINTEGRITY)".into() }
        }
        Some(_) | None => InstallError::NpmFailed { status: status.to_string(), tail: last_lines(&text) },
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// The text without what may be a secret: credentials in addresses, and values of npm's secret settings.
fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        if ["_auth", "_password", "npm_", "bearer ", "authorization"].iter().any(|mark| lower.contains(mark))
        {
            out.push_str("(a line with credentials was removed)\n");
            continue;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("://") {
            out.push_str(before);
            out.push_str("://");
            let end = after.find(['/', ' ', '"', '\'', '\n']).unwrap_or(after.len());
            // A scheme behind a scheme is no host yet.
            if after[..end].ends_with(':') && after[end..].starts_with("//") {
                rest = after;
                continue;
            }
            let host = after[..end].rsplit_once('@').map_or(&after[..end], |(_, host)| host);
            out.push_str(host);
            rest = &after[end..];
        }
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use proptest::prelude::*;

    use super::*;

    fn class(text: &str) -> InstallError {
        classify(ExitStatus::from_raw(256), text.as_bytes(), Path::new("/b"))
    }

    #[test]
    fn npm_codes_of_all_generations_are_sorted() {
        for (text, code) in [
            ("npm error code ENOTFOUND\nnpm error syscall getaddrinfo", "offline"),
            ("npm ERR! code EAI_AGAIN", "offline"),
            ("npm warn x\nnpm error code ENOSPC\n", "disk-full"),
            ("npm error code EINTEGRITY", "integrity-mismatch"),
            ("npm error code EACCES\nnpm error path /x", "no-permission"),
            ("npm error code E404", "npm-failed"),
            ("Error: Cannot find module", "npm-failed"),
            ("", "npm-failed"),
        ] {
            let error = class(text);
            assert_eq!(error.code(), code, "{text}");
            assert!(!error.next_step().is_empty());
        }
    }

    #[test]
    fn secrets_do_not_reach_the_error() {
        let error = class(
            "npm error code E401\nGET https://user:hunter2@host/x?a 'http://t0ken@h'\n//h/:_authToken=abc\nnpm error end",
        );
        let text = error.to_string();
        for secret in ["hunter2", "t0ken", "abc"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(redact("://https://t0ken@host/"), "://https://host/");
        assert!(text.contains("https://host/x?a 'http://h'") && text.ends_with("npm error end"), "{text}");
    }

    #[test]
    fn only_the_end_of_a_flood_is_kept() {
        let flood = [vec![b'a'; 3 * TAIL], b"end".to_vec()].concat();
        let kept = tail(&flood[..]);
        assert!(kept.len() <= TAIL && kept.ends_with(b"end"));
    }

    proptest! {
        #[test]
        fn user_info_of_an_address_never_survives(user in "[a-z0-9]{8,12}", junk in "\\PC{0,40}") {
            let text = format!("{junk}https://{user}@example/{junk}");
            let kept = redact(&text);
            let found_elsewhere = junk.contains(&user);
            prop_assert!(found_elsewhere || !kept.contains(&user), "{}", kept);
            let _ = class(&text);
        }
    }
}
