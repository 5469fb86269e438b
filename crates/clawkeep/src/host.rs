//! The installation that a command is about: its state directory and its daemon.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clawkeep_daemon::api::{Answer, Request, SandboxStatus, Value};
use clawkeep_daemon::{Client, connect, ensure};
use clawkeep_plan::SandboxName;
use clawkeep_store::{Home, HomeError};

use crate::env::Env;
use crate::interrupt::Interrupt;
use crate::problem::Problem;

/// How often a request is asked again when the daemon dies under it.
const ATTEMPTS: u32 = 4;

/// One installation.
pub struct Host {
    /// The environment.
    pub env: Env,
    /// The handler of signals.
    pub interrupt: Interrupt,
    root: PathBuf,
    program: PathBuf,
}

impl Host {
    /// The one that the environment names. Touches nothing.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(env: Env) -> Result<Self, Problem> {
        let root = Home::locate(|name| env.exact(name))?;
        let ours = |what: &str, error: std::io::Error| {
            Problem::new("system", format!("cannot {what}: {error}"), "clawkeep --help")
        };
        let program = std::env::current_exe().map_err(|error| ours("find this program's own file", error))?;
        let interrupt = Interrupt::install().map_err(|error| ours("handle signals", error))?;
        Ok(Self { env, interrupt, root, program })
    }

    /// The state directory; it need not exist.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// This program's own file.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The state directory, made ready for use. A full or read-only disk is no error: there is still much to ask
    /// about, and what needs the disk says so itself.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn home(&self) -> Result<Home, Problem> {
        Ok(Home::open_as_it_is(&self.root)?.0)
    }

    /// The names below the state directory's sandboxes, sorted. Nothing is made.
    ///
    /// # Errors
    /// When it is not ours to read.
    pub fn names(&self) -> Result<Vec<SandboxName>, Problem> {
        let io = |source: std::io::Error| HomeError::Io { path: self.root.clone(), source };
        match std::fs::metadata(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error).into()),
            Ok(found) if !found.is_dir() => return Err(HomeError::NotADirectory(self.root.clone()).into()),
            Ok(found) => {
                let (owner, us) = (found.uid(), rustix::process::geteuid().as_raw());
                if owner != us {
                    return Err(HomeError::Foreign { path: self.root.clone(), owner, us }.into());
                }
            }
        }
        let entries = match std::fs::read_dir(self.root.join("sandboxes")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut names: Vec<SandboxName> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// A connection to the daemon: the one that runs, or, where there are sandboxes for it, a new one. `None`
    /// where there is neither: then nothing is made.
    ///
    /// # Errors
    /// When it cannot be reached or started.
    pub fn existing(&self) -> Result<Option<Client>, Problem> {
        let names = self.names()?;
        if let Ok(Some(client)) = connect(&self.root) {
            return Ok(Some(client));
        }
        if names.is_empty() { Ok(None) } else { self.client().map(Some) }
    }

    /// A connection to the daemon, started if need be.
    ///
    /// # Errors
    /// When it cannot be reached or started.
    pub fn client(&self) -> Result<Client, Problem> {
        Ok(ensure(&self.home()?, &self.program)?)
    }

    /// Ask the daemon, of which there is one or a reason for one; again, if it dies before it answers.
    ///
    /// # Errors
    /// Its failure; `no-such-sandbox` where there is nothing to ask about.
    pub fn ask(&self, request: &Request, mut step: impl FnMut(Answer)) -> Result<Value, Problem> {
        self.retry(request, || self.existing()?.ok_or_else(|| self.nothing_here(request)), &mut step)
    }

    /// Ask the daemon, which is started if need be.
    ///
    /// # Errors
    /// Its failure.
    pub fn order(&self, request: &Request, mut step: impl FnMut(Answer)) -> Result<Value, Problem> {
        self.retry(request, || self.client(), &mut step)
    }

    fn retry(
        &self,
        request: &Request,
        connect: impl Fn() -> Result<Client, Problem>,
        step: &mut dyn FnMut(Answer),
    ) -> Result<Value, Problem> {
        // A second `Create` would find the first one's sandbox.
        let attempts = if matches!(request, Request::Create(_)) { 1 } else { ATTEMPTS };
        for attempt in 1.. {
            let mut client = connect()?;
            // While cleaning up after a signal, that one no longer counts.
            let cleaning = self.interrupt.raised().is_some();
            let answer = {
                let fd = client.as_fd().try_clone_to_owned().map_err(|error| {
                    Problem::new("system", format!("cannot watch the daemon's answer: {error}"), "ulimit -n")
                })?;
                let _watch = self.interrupt.watch(fd.as_fd());
                client.ask(request, &mut *step)
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    if let Some(status) = self.interrupt.raised().filter(|_| !cleaning) {
                        let mut problem = Problem::from(failure);
                        problem.status = status;
                        return Err(problem);
                    }
                    if failure.code != "daemon-gone" || attempt >= attempts {
                        return Err(failure.into());
                    }
                }
            }
        }
        unreachable!("the attempts are bounded")
    }

    /// The state of this sandbox, or of the default one.
    ///
    /// # Errors
    /// `no-such-sandbox`.
    pub fn sandbox(&self, name: Option<&SandboxName>) -> Result<SandboxStatus, Problem> {
        sandbox_of(self.ask(&Request::Sandbox { name: name.cloned() }, |_| ())?)
    }

    fn nothing_here(&self, request: &Request) -> Problem {
        let which = match request {
            Request::Sandbox { name } => name.as_ref().map(ToString::to_string),
            Request::Use { name } => Some(name.to_string()),
            _ => None,
        };
        let which = which.map(|name| format!(" {name}")).unwrap_or_default();
        let message = format!("there is no sandbox{which}; there is none at all in {}", self.root.display());
        Problem::new("no-such-sandbox", message, "clawkeep onboard")
    }
}

/// The sandbox in the answer.
///
/// # Errors
/// When there is none in it.
pub fn sandbox_of(value: Value) -> Result<SandboxStatus, Problem> {
    match value {
        Value::Sandbox(sandbox) => Ok(*sandbox),
        _ => Err(unexpected()),
    }
}

/// An answer of another kind than the question's.
pub fn unexpected() -> Problem {
    Problem::new(
        "daemon-answer",
        "the daemon answered something else than was asked: it is of another version",
        "run the clawkeep that started it",
    )
}
