use serde::{Deserialize, Serialize};

/// What runs an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// The static program.
    Static,
    /// bash.
    Shell,
    /// Python 3.
    Python,
    /// Node.js.
    Node,
    /// Nothing inside: what the host sees.
    Host,
}

impl Runtime {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Shell => "sh",
            Self::Python => "python",
            Self::Node => "node",
            Self::Host => "host",
        }
    }
}

/// Something to run in a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// By what.
    pub runtime: Runtime,
    /// The static program's arguments, or a script alone.
    pub arguments: Vec<String>,
}

impl Program {
    /// The whole command line; `payload` is where the target has the static program.
    pub fn argv(&self, payload: &str) -> Vec<String> {
        let interpreter: &[&str] = match self.runtime {
            // Without the files that the agent could have written for it to read first.
            Runtime::Shell => &["/bin/bash", "--norc", "--noprofile", "-c"],
            Runtime::Python => &["python3", "-I", "-c"],
            Runtime::Node => &["node", "-e"],
            Runtime::Static | Runtime::Host => &[payload],
        };
        interpreter.iter().map(|word| (*word).to_owned()).chain(self.arguments.iter().cloned()).collect()
    }
}

/// How a program ended. All of it is hostile: the agent runs beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The beginning of what it wrote.
    pub output: Vec<u8>,
    /// Its status as a shell has it: 127 where there is no such program.
    pub status: i32,
    /// It was ended because it took too long.
    pub timed_out: bool,
}

/// The sandbox could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetError(pub String);

impl std::fmt::Display for TargetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

/// Where in a target lies what the attempts name by its path behind namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The agent's home, `/sandbox`.
    pub home: String,
    /// Its directory for temporary files, `/tmp`.
    pub tmp: String,
    /// The guards that the agent loads, `/opt/clawkeep/guards`.
    pub guards: String,
    /// The authorities that its programs trust, `/opt/clawkeep/ca.pem`.
    pub trust: String,
    /// The socket over which its first process is controlled, `/run/init.sock`.
    pub control: String,
    /// The agent's configuration, of which the last healthy one is put back; where that is known.
    pub config: Option<String>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            home: "/sandbox".to_owned(),
            tmp: "/tmp".to_owned(),
            guards: "/opt/clawkeep/guards".to_owned(),
            trust: "/opt/clawkeep/ca.pem".to_owned(),
            control: "/run/init.sock".to_owned(),
            config: None,
        }
    }
}

impl Places {
    /// This path, at its place.
    pub(crate) fn find(&self, path: &str) -> String {
        let usual = Self::default();
        let places = [
            (&usual.home, &self.home),
            (&usual.tmp, &self.tmp),
            (&usual.guards, &self.guards),
            (&usual.trust, &self.trust),
            (&usual.control, &self.control),
        ];
        let below =
            |place: &str| path.strip_prefix(place).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let found = places.into_iter().find_map(|(usual, place)| Some(format!("{place}{}", below(usual)?)));
        found.unwrap_or_else(|| path.to_owned())
    }
}

/// What a target's walls are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Walls {
    /// Namespaces, and whatever is in them.
    #[default]
    Namespaces,
    /// Landlock and seccomp alone, beside the host's processes and on its network.
    Landlock {
        /// The agent's user is nobody else's.
        own_user: bool,
    },
}

/// What can be expected of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// Port on its loopback of a proxy that leads to `inference.local`.
    pub proxy: Option<u16>,
    /// A name server answers on its loopback.
    pub name_server: bool,
    /// Netlink sockets for the questions of getifaddrs(3) are open in it; the strict profile has none.
    pub netlink: bool,
    /// What its walls are made of.
    pub walls: Walls,
    /// Its walls are ours: each answer must be the one that is written down, not just any refusal.
    pub exact: bool,
    /// It has a process-id namespace of its own.
    pub own_processes: bool,
    /// It has a network namespace of its own, which is meant to lead nowhere.
    pub own_network: bool,
    /// Its system is mounted read-only, or nothing is lost with it.
    pub read_only_system: bool,
    /// What it sees as its system is not the host's.
    pub own_system: bool,
    /// Limit of processes.
    pub processes: Option<u64>,
    /// Limit of memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Limit of a file's size, in bytes.
    pub file_bytes: Option<u64>,
    /// The agent is still in the groups of the user who runs it, which only root can drop (user_namespaces(7)).
    pub keeps_groups: bool,
    /// Its agent is launched with guards.
    pub guards: bool,
    /// Its agent's main process is started again when it ends.
    pub heals: bool,
    /// Its agent is asked how it is, so that a hang of it is noticed.
    pub asked: bool,
}

/// The agent's main process after it was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// It is another process than before and well, every guard is verified, and its receipt was accepted.
    pub guarded: bool,
    /// What was found.
    pub detail: String,
}

/// A sandbox that can be drilled.
pub trait Target {
    /// What can be expected.
    fn traits(&self) -> Traits;

    /// Where in it lies what the attempts name.
    fn places(&self) -> Places {
        Places::default()
    }

    /// Run it to its end, or until it has taken too long.
    ///
    /// # Errors
    /// When the sandbox itself cannot be asked. A program that is missing in it is no error.
    fn run(&mut self, program: &Program) -> Result<Said, TargetError>;

    /// Whether the agent's main process is still the one that ran when the drill began, and well.
    ///
    /// # Errors
    /// When that cannot be asked.
    fn undisturbed(&mut self) -> Result<bool, TargetError> {
        Ok(true)
    }

    /// Wait until the agent's main process is well, whatever happened to it.
    ///
    /// # Errors
    /// When that cannot be asked.
    fn wait_well(&mut self) -> Result<Recovered, TargetError> {
        Err(TargetError("nothing is started again here".to_owned()))
    }

    /// The agent's main process, as it is numbered inside; `None` where there is none, or nobody knows.
    ///
    /// # Errors
    /// When that cannot be asked.
    fn main_process(&mut self) -> Result<Option<i32>, TargetError> {
        Ok(None)
    }

    /// Run this, which is to do for the agent's main process, and wait until another one is well.
    ///
    /// # Errors
    /// When that cannot be asked.
    fn replaced_after(&mut self, program: &Program) -> Result<(Said, Recovered), TargetError> {
        Ok((self.run(program)?, self.wait_well()?))
    }

    /// End the agent's main process from outside and wait until the next one is well.
    ///
    /// # Errors
    /// When that cannot be asked.
    fn recover(&mut self) -> Result<Recovered, TargetError> {
        self.wait_well()
    }
}
