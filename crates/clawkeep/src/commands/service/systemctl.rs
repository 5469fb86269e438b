//! What systemd is asked and told, by systemctl(1).

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use clawkeep_daemon::unit::{Scope, UNIT};

use super::Service;
use crate::problem::Problem;

/// The unit as its manager sees it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// `active`, `activating`, `inactive`, `failed`...
    pub state: String,
    /// What the daemon says of itself.
    pub text: String,
    /// How often it was restarted by the manager.
    pub restarts: u32,
    file_state: String,
    entered: String,
    main: u32,
}

impl Shown {
    fn parse(text: &str) -> Self {
        let pairs: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let get = |key| (*pairs.get(key).unwrap_or(&"")).to_owned();
        Self {
            state: get("ActiveState"),
            text: get("StatusText"),
            restarts: get("NRestarts").parse().unwrap_or(0),
            file_state: get("UnitFileState"),
            entered: get("ActiveEnterTimestamp"),
            main: get("MainPID").parse().unwrap_or(0),
        }
    }

    /// Whether it starts at boot.
    pub fn enabled(&self) -> bool {
        self.file_state == "enabled"
    }

    /// Whether it is up: everything was started.
    pub fn active(&self) -> bool {
        self.state == "active"
    }

    /// Since when, RFC 3339 in UTC.
    pub fn since(&self) -> Option<String> {
        let seconds = self.entered.strip_prefix('@').filter(|_| self.active())?.parse().ok()?;
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        Some(humantime::format_rfc3339_seconds(time).to_string())
    }

    /// The daemon's process.
    pub fn pid(&self) -> Option<u32> {
        Some(self.main).filter(|pid| *pid > 0)
    }
}

impl Service<'_> {
    /// Run systemctl with these arguments; what it printed.
    ///
    /// # Errors
    /// `no-user-manager`, `systemctl-failed` with what it said.
    pub(super) fn systemctl(&self, args: &[&str]) -> Result<String, Problem> {
        let failed = |why: &str| {
            let flag = if self.scope == Scope::User { " --user" } else { "" };
            if self.scope == Scope::User && why.contains("Failed to connect to") {
                let message = format!("you have no systemd of your own in this session: {why}");
                return Problem::new("no-user-manager", message, &format!("{}, then log in anew", linger()));
            }
            let next = match self.scope {
                Scope::System => format!("systemctl status {UNIT}; journalctl -u {UNIT} -n 20"),
                Scope::User => format!("systemctl --user status {UNIT}; journalctl --user-unit {UNIT} -n 20"),
            };
            Problem::new("systemctl-failed", format!("systemctl{flag} {}: {why}", args.join(" ")), &next)
        };
        let output =
            self.scope.systemctl().args(args).output().map_err(|error| failed(&error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(if said.is_empty() { "it failed" } else { &said }));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The unit's state; that of a unit which is not there is `inactive`.
    ///
    /// # Errors
    /// Those of [`Self::systemctl`].
    pub(super) fn show(&self) -> Result<Shown, Problem> {
        let properties = "ActiveState,StatusText,NRestarts,UnitFileState,ActiveEnterTimestamp,MainPID";
        Ok(Shown::parse(&self.systemctl(&["show", "--timestamp=unix", "--property", properties, UNIT])?))
    }
}

/// The command that lets this user's services start at boot.
pub fn linger() -> String {
    format!("loginctl enable-linger {}", rustix::process::getuid().as_raw())
}

/// Whether this user's services start at boot. Of users that neither linger nor are logged in, loginctl says
/// nothing.
pub fn lingers() -> bool {
    let mut loginctl = std::process::Command::new("loginctl");
    let uid = rustix::process::getuid().as_raw().to_string();
    loginctl.args(["show-user", "--property=Linger", "--value", &uid]).stdin(std::process::Stdio::null());
    loginctl.output().is_ok_and(|output| output.status.success() && output.stdout.trim_ascii() == b"yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemctl_shows() {
        let text = "MainPID=71\nNRestarts=2\nStatusText=20 sandboxes\nActiveState=active\n\
                    UnitFileState=enabled\nActiveEnterTimestamp=@1764054000\n";
        let shown = Shown::parse(text);
        assert!(shown.enabled() && shown.active());
        assert_eq!((shown.pid(), shown.restarts, shown.text.as_str()), (Some(71), 2, "20 sandboxes"));
        assert_eq!(shown.since().as_deref(), Some("2025-11-25T07:00:00Z"));
    }

    #[test]
    fn a_unit_that_is_not_there_is_neither_enabled_nor_active() {
        let shown = Shown::parse("MainPID=0\nActiveState=inactive\nUnitFileState=\nActiveEnterTimestamp=\n");
        assert!(!shown.enabled() && !shown.active());
        assert_eq!((shown.pid(), shown.since()), (None, None));
        assert_eq!(Shown::parse(""), Shown::default());
    }
}
