//! The unit written and removed.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use clawkeep_daemon::unit::{self, Found, Scope, UNIT, Unfit};
use clawkeep_store::atomic;
use rustix::fs::Mode;
use serde_json::json;

use super::{Service, systemctl};
use crate::output;
use crate::problem::{Outcome, Problem};

/// A path that no unit can name.
pub fn unfit(unfit: &Unfit) -> Problem {
    Problem::new("path-unfit", unfit.to_string(), "move it to a path of letters, digits and blanks")
}

/// Refuse a program that somebody else could replace: root would run theirs at the next boot.
fn only_ours(program: &Path) -> Result<(), Problem> {
    let us = rustix::process::geteuid().as_raw();
    for path in program.ancestors() {
        let found = std::fs::metadata(path).map_err(|error| {
            let message = format!("cannot look at {}: {error}", path.display());
            Problem::new("program-gone", message, "run the clawkeep that is installed")
        })?;
        let sticky = found.is_dir() && found.mode() & 0o1000 != 0;
        let why = match found.uid() {
            owner if owner != 0 && owner != us => format!("belongs to uid {owner}"),
            _ if found.mode() & 0o002 != 0 && !sticky => "can be written by everybody".to_owned(),
            _ => continue,
        };
        let message =
            format!("{} {why}: {} is no program to run at every boot", path.display(), program.display());
        let next = format!("install -m 755 {} /usr/local/bin/clawkeep", program.display());
        return Err(Problem::new("program-not-safe", message, &next));
    }
    Ok(())
}

impl Service<'_> {
    /// Written, enabled and started, whatever of it is missing.
    pub(super) fn install(&self) -> Outcome {
        self.need_systemd()?;
        only_ours(self.host.program())?;
        let home = self.host.home()?;
        let text = unit::text(self.scope, self.host.program(), home.root()).map_err(|error| unfit(&error))?;
        let changed = match self.found()? {
            Found::Ours { text: old, .. } if old == text => false,
            Found::Ours { home: other, .. } if other != home.root() => {
                let message = format!("{} serves {} already", self.path.display(), other.display());
                let next = format!("CLAWKEEP_HOME='{}' {}", other.display(), self.command("uninstall"));
                return Err(Problem::new("unit-of-another-home", message, &next));
            }
            Found::Foreign(what) => return Err(self.foreign(what)),
            Found::Ours { .. } | Found::Nothing => {
                self.write(&text)?;
                true
            }
        };
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", UNIT])?;
        // It takes the place of a daemon that was started on demand, and adopts what that one ran.
        self.systemctl(&[if changed { "restart" } else { "start" }, UNIT])?;
        let shown = self.show()?;
        let no_linger = self.scope == Scope::User && !systemctl::lingers();
        let linger = no_linger.then(systemctl::linger);
        if self.json {
            output::print_json(&json!({
                "schema": 1, "scope": self.scope.word(), "unit": self.path, "changed": changed,
                "home": home.root(), "enabled": shown.enabled(), "active": shown.active(),
                "pid": shown.pid(), "next": linger,
            }));
        } else {
            let what = if changed { "installed" } else { "was installed already" };
            let mut said = format!(
                "{UNIT} ({}) {what}: the daemon runs now and starts at boot\n  unit  {}\n",
                self.scope.word(),
                self.path.display()
            );
            if let Some(linger) = linger {
                said += &format!("  but it starts with your first login, not at boot\n  next: {linger}\n");
            }
            output::print(&output::clean(&said));
        }
        Ok(u8::from(!(shown.enabled() && shown.active())))
    }

    fn foreign(&self, what: &str) -> Problem {
        let path = self.path.display();
        // `systemctl mask` makes such a link.
        let masked = std::fs::read_link(&self.path).is_ok_and(|target| target == Path::new("/dev/null"));
        let next = match (masked, self.scope) {
            (true, Scope::System) => format!("systemctl unmask {UNIT}"),
            (true, Scope::User) => format!("systemctl --user unmask {UNIT}"),
            _ => format!("mv {path} {path}.before, then {}", self.command("install")),
        };
        Problem::new("unit-foreign", format!("{path} is {what}: it is left as it is"), &next)
    }

    /// The whole file or none of it; a link that appears in its place is replaced, never followed.
    fn write(&self, text: &str) -> Result<(), Problem> {
        let failed = |error: std::io::Error| {
            let message = format!("cannot write {}: {error}", self.path.display());
            Problem::new("unit-not-written", message, &format!("ls -ld {}", self.path.display()))
        };
        let dir = self.path.parent().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
        let dir = atomic::open_dir(dir).map_err(failed)?;
        atomic::write(dir, UNIT, text.as_bytes(), Mode::from_raw_mode(0o644)).map_err(failed)
    }

    /// The unit away. What runs goes on: under a daemon of the command line, at once.
    pub(super) fn uninstall(&self) -> Outcome {
        self.need_systemd()?;
        let removed = match self.found()? {
            Found::Nothing => false,
            Found::Foreign(what) => return Err(self.foreign(what)),
            Found::Ours { home, .. } if !self.is_ours(&home) => {
                let message = format!("{} serves {}", self.path.display(), home.display());
                let next = format!("CLAWKEEP_HOME='{}' {}", home.display(), self.command("uninstall"));
                return Err(Problem::new("unit-of-another-home", message, &next));
            }
            Found::Ours { .. } => {
                self.systemctl(&["disable", "--now", UNIT])?;
                let gone = self
                    .path
                    .parent()
                    .map_or(Ok(false), |dir| atomic::open_dir(dir).and_then(|dir| atomic::remove(dir, UNIT)));
                gone.map_err(|error| {
                    let message = format!("cannot remove {}: {error}", self.path.display());
                    Problem::new("unit-not-removed", message, &format!("rm {}", self.path.display()))
                })?;
                self.systemctl(&["daemon-reload"])?;
                true
            }
        };
        // Not left alone until the next command.
        let goes_on = self.host.existing()?.is_some();
        if self.json {
            output::print_json(&json!({
                "schema": 1, "scope": self.scope.word(), "unit": self.path, "removed": removed,
                "daemon": goes_on,
            }));
        } else if removed {
            let now = if goes_on {
                "the sandboxes go on under a daemon that is no service; after a boot any command starts it\n"
            } else {
                "there are no sandboxes, and no daemon runs\n"
            };
            output::print(&format!("{UNIT} ({}) removed\n  {now}", self.scope.word()));
        } else {
            output::print(&format!("{UNIT} ({}) is not installed\n", self.scope.word()));
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_program_that_others_can_replace_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("bin");
        std::fs::create_dir(&dir).unwrap();
        let program = dir.join("clawkeep");
        std::fs::write(&program, "").unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let code = || only_ours(&program).err().map(|problem| problem.failure.code);
        mode(&dir, 0o755);
        mode(&program, 0o755);
        assert_eq!(code(), None);
        mode(&program, 0o777);
        assert_eq!(code().as_deref(), Some("program-not-safe"));
        mode(&program, 0o755);
        mode(&dir, 0o777);
        assert_eq!(code().as_deref(), Some("program-not-safe"));
        mode(&dir, 0o1777);
        assert_eq!(code(), None);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&program, Some(12345), None).unwrap();
            assert_eq!(code().as_deref(), Some("program-not-safe"));
        }
        std::fs::remove_file(&program).unwrap();
        assert_eq!(code().as_deref(), Some("program-gone"));
    }
}
