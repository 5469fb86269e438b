//! The journal: from the daemon, which alone has the file as long as it runs; else from the file, so that it
//! can be read when everything else is down. No daemon is started for it.

use std::time::{Duration, Instant};

use clawkeep_daemon::api::{Request, Value};
use clawkeep_daemon::connect;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Event, JournalReader, MAX_PAGE, Page, Span, StoreError};
use rustix::event::{Timespec, poll};

use super::known;
use crate::host::{Host, unexpected};
use crate::problem::Problem;

/// How long a daemon may take to answer, and one that begins or ends to serve or to let go of the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks for whoever has the journal.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The journal of an installation. Whoever has it is looked for at each read: daemons come and go, and nothing
/// is kept open that a starting one would have to wait for.
pub struct Journal<'a>(&'a Host);

/// The end of a journal.
pub struct Tail {
    /// Oldest first.
    pub events: Vec<Event>,
    /// As [`Page::newest`], at the beginning of the read.
    pub newest: u64,
    /// As [`Page::in_memory`].
    pub in_memory: bool,
    /// As [`Page::complete`].
    pub complete: bool,
}

impl<'a> Journal<'a> {
    /// The one of this installation.
    ///
    /// # Errors
    /// When its directory is not ours: then its content is not to be trusted.
    pub fn of(host: &'a Host) -> Result<Self, Problem> {
        host.names()?;
        Ok(Self(host))
    }

    /// A page of it; `None` where nothing was written yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn page(&self, sandbox: Option<&SandboxName>, span: Span) -> Result<Option<Page>, Problem> {
        self.part(sandbox, span, MAX_PAGE)
    }

    fn part(&self, sandbox: Option<&SandboxName>, span: Span, limit: usize) -> Result<Option<Page>, Problem> {
        let request = Request::Journal { sandbox: sandbox.cloned(), span, limit };
        let answered = |value| match value {
            Value::Journal(page) => Ok(page),
            _ => Err(unexpected()),
        };
        self.read(&request, answered, |file| file.page(sandbox, span, limit))
    }

    /// The last `n` events.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tail(&self, sandbox: Option<&SandboxName>, n: usize) -> Result<Option<Tail>, Problem> {
        let part = |before, found: usize| self.part(sandbox, Span::Before(before), MAX_PAGE.min(n - found));
        let Some(first) = part(u64::MAX, 0)? else { return Ok(None) };
        let Page { newest, in_memory, complete, mut more, .. } = first;
        // The newest part first.
        let mut parts = vec![first.events];
        let mut found = parts[0].len();
        while let Some(oldest) = parts.last().and_then(|part| part.first())
            && more
            && found < n
        {
            match part(oldest.seq, found)? {
                Some(next) if next.in_memory == in_memory => {
                    found += next.events.len();
                    more = next.more;
                    parts.push(next.events);
                }
                // Another journal has taken its place, with other numbers.
                _ => return self.tail(sandbox, n),
            }
        }
        let events = parts.into_iter().rev().flatten().collect();
        Ok(Some(Tail { events, newest, in_memory, complete }))
    }

    /// The sandbox of this name, or the default one.
    ///
    /// # Errors
    /// `no-such-sandbox`.
    pub fn sandbox(&self, name: Option<SandboxName>) -> Result<SandboxName, Problem> {
        if let Some(name) = name {
            return known(self.0, name);
        }
        let answered = |value| match value {
            Value::Sandbox(sandbox) => Ok(Some(sandbox.name)),
            _ => Err(unexpected()),
        };
        let default =
            match self.read(&Request::Sandbox { name: None }, answered, |file| file.default_sandbox()) {
                Err(problem) if problem.failure.code == "no-sandbox" => None,
                default => default?.flatten(),
            };
        default.ok_or_else(|| {
            let message = format!("there is no sandbox in {}", self.0.root().display());
            Problem::new("no-such-sandbox", message, "clawkeep onboard")
        })
    }

    /// What the daemon answers, or, where there is none, what is in the file; `None` where there is none either.
    fn read<T>(
        &self,
        request: &Request,
        answered: impl Fn(Value) -> Result<T, Problem>,
        of_file: impl Fn(&JournalReader) -> Result<T, StoreError>,
    ) -> Result<Option<T>, Problem> {
        let root = self.0.root();
        let until = Instant::now() + PATIENCE;
        loop {
            // A socket that cannot be used is no reason not to look into the file.
            if let Ok(Some(mut client)) = connect(root)
                && client.set_patience(PATIENCE).is_ok()
            {
                match client.ask(request, |_| ()) {
                    Ok(value) => return answered(value).map(Some),
                    Err(failure) if failure.code == "daemon-silent" => {
                        return Err(silent(client.daemon_pid()));
                    }
                    // It died: there is the file, or the next one.
                    Err(failure) if failure.code == "daemon-gone" => {}
                    Err(failure) => return Err(failure.into()),
                }
            }
            match JournalReader::open(root).and_then(|file| file.as_ref().map(&of_file).transpose()) {
                Ok(found) => return Ok(found),
                // A daemon that has yet to listen, or to end.
                Err(StoreError::Busy(_)) if Instant::now() < until => {}
                Err(error) => return Err(self.unreadable(&error)),
            }
            let _ = poll(&mut [], Some(&LOOK));
        }
    }

    fn unreadable(&self, error: &StoreError) -> Problem {
        let (code, next) = match error {
            StoreError::Newer { .. } => ("journal-newer", "use the clawkeep that wrote it".to_owned()),
            // Opened for writing it is repaired.
            StoreError::Corrupt(_) => ("journal-damaged", "clawkeep status".to_owned()),
            StoreError::Busy(_) => ("journal-busy", "clawkeep status".to_owned()),
            _ => ("journal-unreadable", format!("ls -l {}", self.0.root().display())),
        };
        Problem::new(code, format!("cannot read the journal: {error}"), &next)
    }
}

/// A daemon that is stopped or stuck has the journal, and nobody else can read it.
fn silent(pid: Option<i32>) -> Problem {
    let (which, next) = match pid {
        Some(pid) => (format!("the daemon (pid {pid})"), format!("kill -KILL {pid}")),
        None => ("the daemon".to_owned(), "clawkeep status".to_owned()),
    };
    let message = format!(
        "cannot read the journal: {which} has it and has not answered for {} s. No agent ends with the daemon; \
         the next one takes over",
        PATIENCE.as_secs()
    );
    Problem::new("journal-busy", message, &next)
}

/// Whether somebody looks after the sandboxes just now.
pub fn is_supervised(host: &Host) -> bool {
    matches!(connect(host.root()), Ok(Some(_)))
}
