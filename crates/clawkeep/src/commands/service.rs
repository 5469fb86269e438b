//! The daemon as a service: started at boot, restarted when it dies, by systemd where there is one.

mod install;
mod systemctl;

use std::os::unix::process::CommandExt;

use clap::Subcommand;
use clawkeep_daemon::unit::{self, Found, Scope, UNIT};
use clawkeep_doctor::Check;
use serde_json::json;

use self::systemctl::Shown;
use crate::host::Host;
use crate::output;
use crate::problem::{Outcome, Problem};

/// What `service` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to do with it.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start the daemon at boot, from now on
    Install(Which),
    /// Do so no longer; the sandboxes go on
    Uninstall(Which),
    /// Show whether it is installed, enabled and active; exits 1 when it is not
    Status(Which),
    /// Be the service, in the foreground: for hosts without systemd
    Run,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The host's systemd, as root: the default for root
    #[arg(long, conflicts_with = "user")]
    system: bool,
    /// Your own systemd: the default for everybody else
    #[arg(long)]
    user: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One service manager's unit.
struct Service<'a> {
    host: &'a Host,
    scope: Scope,
    path: std::path::PathBuf,
    json: bool,
}

/// `service install`, `uninstall`, `status`, `run`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    match &options.action {
        Action::Install(which) => Service::of(host, which)?.install(),
        Action::Uninstall(which) => Service::of(host, which)?.uninstall(),
        Action::Status(which) => Service::of(host, which)?.status(),
        Action::Run => foreground(host),
    }
}

/// The line that starts the daemon at boot where there is no systemd: for root's or a user's crontab(5).
fn boot_line(host: &Host) -> Result<String, Problem> {
    let unfit = |unfit: unit::Unfit| install::unfit(&unfit);
    let (home, program) = (unit::fit(host.root()).map_err(unfit)?, unit::fit(host.program()).map_err(unfit)?);
    Ok(format!("@reboot CLAWKEEP_HOME=\"{home}\" \"{program}\" service run"))
}

/// The command that puts that line there.
fn cron(host: &Host) -> Result<String, Problem> {
    Ok(format!("(crontab -l 2>/dev/null; echo '{}') | crontab -", boot_line(host)?))
}

/// Whether something starts the daemon at boot.
///
/// # Errors
/// When it cannot be told.
pub fn check(host: &Host) -> Result<Check, Problem> {
    const ID: &str = "service";
    if !unit::systemd_runs() {
        let found = "systemd does not run this host: nothing starts the daemon at boot";
        return Ok(Check::warn(ID, found, cron(host)?));
    }
    let service = Service::of(host, &Which { system: false, user: false, json: false })?;
    let install = service.command("install");
    Ok(match service.found()? {
        Found::Ours { home, .. } if !service.is_ours(&home) => {
            let found = format!("installed for {}, not for {}", home.display(), host.root().display());
            Check::warn(ID, found, install)
        }
        Found::Ours { .. } if service.scope == Scope::User && !systemctl::lingers() => {
            Check::warn(ID, "installed; it starts with your first login, not at boot", systemctl::linger())
        }
        Found::Ours { .. } => Check::ok(ID, "installed"),
        Found::Nothing => Check::warn(ID, "not installed: nothing starts again after a reboot", install),
        Found::Foreign(what) => Check::warn(
            ID,
            format!("{} is not ours ({what})", service.path.display()),
            format!("move {} away, then {install}", service.path.display()),
        ),
    })
}

/// `service run`: becomes the parent that keeps one daemon running.
fn foreground(host: &Host) -> Outcome {
    let home = host.home()?;
    if let Ok(Some(_)) = clawkeep_daemon::connect(home.root()) {
        let message = format!("a daemon serves {} already", home.root().display());
        return Err(Problem::new("already-running", message, "clawkeep status"));
    }
    let mut parent = std::process::Command::new(host.program());
    parent.arg("daemon").arg("--home").arg(home.root()).arg("--parent");
    let error = parent.exec();
    Err(Problem::new(
        "system",
        format!("cannot start {}: {error}", host.program().display()),
        "clawkeep version",
    ))
}

impl<'a> Service<'a> {
    fn of(host: &'a Host, which: &Which) -> Result<Self, Problem> {
        let root = rustix::process::geteuid().is_root();
        let scope = if which.user || (!which.system && !root) { Scope::User } else { Scope::System };
        if scope == Scope::System && !root {
            return Err(Problem::usage(
                "needs-root",
                "the host's systemd takes units from root only",
                "clawkeep service install --user",
            ));
        }
        let path = scope.path(|name| host.env.exact(name)).ok_or_else(|| {
            Problem::new(
                "home-unknown",
                "no home directory to put a unit in",
                "export HOME=/an/absolute/path",
            )
        })?;
        Ok(Self { host, scope, path, json: which.json })
    }

    /// Without systemd nothing here works; the error has the line that does.
    fn need_systemd(&self) -> Result<(), Problem> {
        if unit::systemd_runs() {
            return Ok(());
        }
        let first = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
        let message = format!(
            "systemd does not run this host (its first process is {:?}): cron, or whatever starts things here, \
             must start the daemon",
            first.trim()
        );
        Err(Problem::new("no-systemd", message, &cron(self.host)?))
    }

    fn found(&self) -> Result<Found, Problem> {
        unit::look(&self.path).map_err(|error| {
            let message = format!("cannot read {}: {error}", self.path.display());
            Problem::new("unit-unreadable", message, &format!("ls -l {}", self.path.display()))
        })
    }

    /// `clawkeep service install`, with the option where it is not the default.
    fn command(&self, verb: &str) -> String {
        let default = rustix::process::geteuid().is_root() == (self.scope == Scope::System);
        let option = if default { String::new() } else { format!(" --{}", self.scope.word()) };
        format!("clawkeep service {verb}{option}")
    }

    fn status(&self) -> Outcome {
        if !unit::systemd_runs() && self.json {
            output::print_json(&json!({
                "schema": 1, "systemd": false, "scope": self.scope.word(), "installed": false,
                "enabled": false, "active": false, "boot_line": boot_line(self.host)?,
            }));
            return Ok(1);
        }
        self.need_systemd()?;
        let found = self.found()?;
        let shown = self.show()?;
        let (installed, home) = match &found {
            Found::Ours { home, .. } => (true, Some(home.clone())),
            Found::Nothing | Found::Foreign(_) => (false, None),
        };
        let ours = home.as_deref().is_some_and(|home| self.is_ours(home));
        let well = installed && ours && shown.enabled() && shown.active();
        if self.json {
            output::print_json(&json!({
                "schema": 1, "systemd": true, "scope": self.scope.word(), "unit": self.path,
                "installed": installed, "home": home, "enabled": shown.enabled(), "active": shown.active(),
                "state": shown.state, "since": shown.since(), "pid": shown.pid(), "says": shown.text,
                "restarts": shown.restarts,
            }));
        } else {
            output::print(&output::clean(&self.text(&found, &shown)));
        }
        Ok(u8::from(!well))
    }

    fn text(&self, found: &Found, shown: &Shown) -> String {
        let installed = match found {
            Found::Ours { .. } => "installed".to_owned(),
            Found::Nothing => "not installed".to_owned(),
            Found::Foreign(what) => format!("not ours ({what})"),
        };
        let enabled = if shown.enabled() { "enabled" } else { "not enabled" };
        let since = shown.since().map(|since| format!(" since {since}")).unwrap_or_default();
        let pid = shown.pid().map(|pid| format!(", pid {pid}")).unwrap_or_default();
        let mut text =
            format!("{UNIT} ({}): {installed}, {enabled}, {}{since}{pid}\n", self.scope.word(), shown.state);
        text += &format!("  unit  {}\n", self.path.display());
        match found {
            Found::Ours { home, .. } if self.is_ours(home) => {
                text += &format!("  home  {}\n", home.display())
            }
            Found::Ours { home, .. } => {
                text += &format!("  home  {}, not {}\n", home.display(), self.host.root().display());
            }
            _ => text += &format!("  next: {}\n", self.command("install")),
        }
        if !shown.text.is_empty() {
            text += &format!("  says  {}\n", shown.text);
        }
        text
    }

    fn is_ours(&self, home: &std::path::Path) -> bool {
        let root = self.host.root();
        home == root || root.canonicalize().is_ok_and(|root| home == root)
    }
}
