//! The unit under which systemd runs the daemon: its text, its place, and whether it is ours.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clawkeep_store::Home;
use rustix::fs::{CWD, Mode, OFlags};

use crate::launch::MEMORY;

/// The unit's name, in the system's manager and in a user's.
pub const UNIT: &str = "clawkeep.service";

/// How the first line of every unit begins that we wrote: nothing else is overwritten or removed.
const MARK: &str = "# Written by `clawkeep service install`";

/// The line that names the state directory.
const HOME_LINE: &str = "Environment=\"CLAWKEEP_HOME=";

/// More than any unit of ours has, in bytes.
const MAX_UNIT: u64 = 64 * 1024;

/// Whose manager runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The host's, as root: it starts at boot.
    System,
    /// A user's own: it starts at boot where the user lingers (loginctl(1)), else with the first login.
    User,
}

impl Scope {
    /// `system` or `user`.
    pub fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
        }
    }

    /// Where the unit's file lies (systemd.unit(5), the places for the administrator's own units). `env` reads
    /// a variable. `None` for a user without a home directory.
    pub fn path(self, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let dir = match self {
            Self::System => PathBuf::from("/etc/systemd/system"),
            Self::User => {
                let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
                let config = absolute("XDG_CONFIG_HOME");
                config.or_else(|| absolute("HOME").map(|home| home.join(".config")))?.join("systemd/user")
            }
        };
        Some(dir.join(UNIT))
    }

    /// systemctl(1) for this manager, silent and without questions.
    pub fn systemctl(self) -> Command {
        let mut command = Command::new("systemctl");
        if self == Self::User {
            command.arg("--user");
        }
        command.args(["--no-pager", "--no-ask-password"]).stdin(Stdio::null());
        command
    }
}

/// Whether systemd manages this host (sd_booted(3)).
pub fn systemd_runs() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|found| found.is_dir())
}

/// A path that a unit, or a crontab, would read as something else.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} has a character in its name that a service manager reads as its own")]
pub struct Unfit(pub PathBuf);

/// The path as text that means itself between double quotes in a unit, a shell and a crontab.
///
/// # Errors
/// [`Unfit`].
pub fn fit(path: &Path) -> Result<&str, Unfit> {
    let bad = |c: char| c.is_control() || matches!(c, '"' | '\'' | '\\' | '$' | '%' | '`' | '!');
    path.to_str().filter(|text| !text.contains(bad)).ok_or_else(|| Unfit(path.to_owned()))
}

/// The unit's text. `program` is this program's file, `home` the state directory; both absolute.
///
/// # Errors
/// [`Unfit`].
pub fn text(scope: Scope, program: &Path, home: &Path) -> Result<String, Unfit> {
    let (program, home) = (fit(program)?, fit(home)?);
    let target = match scope {
        Scope::System => "multi-user.target",
        Scope::User => "default.target",
    };
    // A user's manager may not go below its own score.
    let oom = match scope {
        Scope::System => "OOMScoreAdjust=-500\n",
        Scope::User => "",
    };
    let memory = MEMORY.map(|(name, value)| format!("{name}={value}")).join(" ");
    Ok(format!(
        "{MARK}, which overwrites it.\n\
         # Changes of your own belong in a drop-in: systemctl edit {UNIT}\n\
         [Unit]\n\
         Description=Clawkeep: keeps AI agents running in sandboxes\n\
         After=local-fs.target network.target apparmor.service\n\
         RequiresMountsFor=\"{home}\"\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart=\"{program}\" daemon --home \"{home}\" --service\n\
         {HOME_LINE}{home}\"\n\
         Environment={memory}\n\
         WorkingDirectory=/\n\
         UMask=0077\n\
         Restart=always\n\
         RestartSec=500ms\n\
         # A registry of a newer version: no attempt helps before that version is installed again.\n\
         RestartPreventExitStatus=78\n\
         TimeoutStartSec=120\n\
         TimeoutStopSec=90\n\
         WatchdogSec=30\n\
         # The sandboxes outlive the daemon: the next one adopts them.\n\
         KillMode=process\n\
         Delegate=yes\n\
         TasksMax=infinity\n\
         OOMPolicy=continue\n\
         {oom}\
         # Nothing that gives the daemon a view of its own (PrivateTmp=, ProtectSystem=, ...): a sandbox's\n\
         # namespaces are made of what the daemon sees.\n\
         \n\
         [Install]\n\
         WantedBy={target}\n"
    ))
}

/// What is in the unit's place.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A unit that we wrote, for this state directory.
    Ours {
        /// The state directory.
        home: PathBuf,
        /// All of it.
        text: String,
    },
    /// Something else; what it is.
    Foreign(&'static str),
}

/// Look at the unit's place. A symbolic link is never followed.
///
/// # Errors
/// Those of open(2) and read(2).
pub fn look(path: &Path) -> io::Result<Found> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(Found::Nothing),
        Err(rustix::io::Errno::LOOP) => return Ok(Found::Foreign("a symbolic link")),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(Found::Foreign("no regular file"));
    }
    let mut text = String::new();
    match file.take(MAX_UNIT).read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(Found::Foreign("no text")),
        read => read?,
    };
    let home = text.lines().find_map(|line| line.strip_prefix(HOME_LINE)?.strip_suffix('"'));
    match home.map(PathBuf::from) {
        Some(home) if text.starts_with(MARK) => Ok(Found::Ours { home, text }),
        _ => Ok(Found::Foreign("a unit that clawkeep did not write")),
    }
}

/// Whose manager is to run the daemon of this home, if systemd runs and such a unit is installed.
pub fn serving(home: &Home) -> Option<Scope> {
    if !systemd_runs() {
        return None;
    }
    let root = rustix::process::geteuid().is_root();
    let scopes = if root { &[Scope::System, Scope::User][..] } else { &[Scope::User] };
    scopes.iter().copied().find(|scope| {
        let place = scope.path(|name| std::env::var_os(name));
        matches!(place.map(|path| look(&path)), Some(Ok(Found::Ours { home: its, .. })) if its == home.root())
    })
}

/// Ask the manager to start it now; whether it will.
pub fn start(scope: Scope) -> bool {
    let mut systemctl = scope.systemctl();
    systemctl.args(["start", "--no-block", UNIT]).stdout(Stdio::null()).stderr(Stdio::null());
    systemctl.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_of_ours_is_known_again_with_its_home() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(UNIT);
        assert_eq!(look(&path).unwrap(), Found::Nothing);
        for scope in [Scope::System, Scope::User] {
            let text = text(scope, Path::new("/usr/bin/clawkeep"), Path::new("/var/lib/my claws")).unwrap();
            std::fs::write(&path, &text).unwrap();
            assert_eq!(look(&path).unwrap(), Found::Ours { home: "/var/lib/my claws".into(), text });
        }
    }

    #[test]
    fn everything_else_is_foreign_and_no_link_is_followed() {
        let temp = tempfile::tempdir().unwrap();
        let ours = temp.path().join("ours");
        std::fs::write(&ours, text(Scope::User, Path::new("/c"), Path::new("/h")).unwrap()).unwrap();
        let path = temp.path().join(UNIT);
        std::os::unix::fs::symlink(&ours, &path).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Foreign("a symbolic link"));
        for content in [&b"[Service]\nExecStart=/usr/bin/clawkeep\n"[..], b"", b"\xff", MARK.as_bytes()] {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, content).unwrap();
            assert!(matches!(look(&path).unwrap(), Found::Foreign(_)), "{content:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Foreign("no regular file"));
    }

    #[test]
    fn a_path_that_would_be_read_as_more_is_refused() {
        for bad in ["/a\"b", "/a%b", "/a$b", "/a\nb", "/a\\b", "/a'b", "/a`b"] {
            assert!(fit(Path::new(bad)).is_err(), "{bad}");
            assert!(text(Scope::System, Path::new(bad), Path::new("/h")).is_err());
            assert!(text(Scope::System, Path::new("/c"), Path::new(bad)).is_err());
        }
        assert_eq!(fit(Path::new("/opt/my claws/clawkeep")).unwrap(), "/opt/my claws/clawkeep");
    }

    #[test]
    fn lies_where_the_administrator_s_own_units_lie() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(have, _)| *have == name).map(|(_, value)| value.into())
        };
        let place = |scope: Scope, pairs| scope.path(env(pairs)).map(|path| path.display().to_string());
        let system = Some("/etc/systemd/system/clawkeep.service".to_owned());
        assert_eq!(place(Scope::System, &[("HOME", "/h")]), system);
        let user = |dir: &str| Some(format!("{dir}/systemd/user/clawkeep.service"));
        assert_eq!(place(Scope::User, &[("HOME", "/h")]), user("/h/.config"));
        assert_eq!(place(Scope::User, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), user("/c"));
        assert_eq!(place(Scope::User, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")]), user("/h/.config"));
        assert_eq!(place(Scope::User, &[]), None);
    }
}
