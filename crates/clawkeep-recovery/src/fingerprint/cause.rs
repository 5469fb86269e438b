use serde::{Deserialize, Serialize};

use crate::Blame;

/// Why an agent ended, or does not work. The codes are stable; those of a later version read as `unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// `os.networkInterfaces()` throws under a filter that refuses netlink, and nothing caught it.
    CiaoNetworkInterfaces,
    /// A module that Node was told to load first is not there.
    MissingPreload,
    /// The agent refuses the version of Node under it.
    NodeTooOld,
    /// The agent refuses its configuration.
    InvalidConfig,
    /// Files of the agent's program are missing or cut off.
    MissingModule,
    /// V8 reached its own limit, whatever memory the machine has.
    HeapLimit,
    /// The kernel killed it because the sandbox's memory was used up.
    OutOfMemory,
    /// A living gateway with the same state is there.
    HealthyTwin,
    /// A lock that nobody holds, or that cannot be read.
    StaleLock,
    /// No bytes left on the disk.
    OutOfDisk,
    /// A file system is full although the disk has bytes free.
    OutOfInodes,
    /// A file would grow over the limit for one file (setrlimit(2), RLIMIT_FSIZE).
    FileSizeLimit,
    /// No process or thread can be made.
    TooManyProcesses,
    /// No file can be opened.
    TooManyFiles,
    /// A certificate was not believed.
    TlsFailure,
    /// Something else listens on the port.
    PortTaken,
    /// It gave up because the proxy refused a host.
    DeniedHost,
    /// It ended over a system call that the sandbox forbids.
    DeniedSyscall,
    /// Its program could not be executed.
    ExecFailed,
    /// An exception or a rejected promise that nothing caught.
    UncaughtError,
    /// It crashed in native code.
    NativeCrash,
    /// A signal ended it that nobody here sent.
    Killed,
    /// It runs and does not answer.
    Unresponsive,
    /// Nothing that is known.
    #[serde(other)]
    Unknown,
}

/// What is done about a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// What Clawkeep does by itself.
    pub automatic: &'static str,
    /// The one command with which a person can help; `NAME` stands for the sandbox.
    pub command: Option<&'static str>,
}

const LOGS: Option<&str> = Some("clawkeep NAME logs --tail 100");
const STATUS: Option<&str> = Some("clawkeep NAME status");

impl Cause {
    /// Every cause, the more telling before the more general: of two that are equally sure the first counts.
    pub const ALL: [Self; 24] = [
        Self::CiaoNetworkInterfaces,
        Self::MissingPreload,
        Self::NodeTooOld,
        Self::InvalidConfig,
        Self::MissingModule,
        Self::HeapLimit,
        Self::OutOfMemory,
        Self::HealthyTwin,
        Self::StaleLock,
        Self::OutOfDisk,
        Self::OutOfInodes,
        Self::FileSizeLimit,
        Self::TooManyProcesses,
        Self::TooManyFiles,
        Self::TlsFailure,
        Self::PortTaken,
        Self::DeniedHost,
        Self::DeniedSyscall,
        Self::ExecFailed,
        Self::UncaughtError,
        Self::NativeCrash,
        Self::Killed,
        Self::Unresponsive,
        Self::Unknown,
    ];

    /// Its stable code.
    pub fn code(self) -> &'static str {
        self.about().0
    }

    /// What happened, in one plain sentence.
    pub fn summary(self) -> &'static str {
        self.about().1
    }

    /// What is to blame, as far as the repair is concerned.
    pub fn blame(self) -> Blame {
        self.about().2
    }

    /// What is done about it.
    pub fn remedy(self) -> Remedy {
        let (_, _, _, automatic, command) = self.about();
        Remedy { automatic, command }
    }

    /// Code, sentence, blame, what we do, what a person can do: the whole table in one place.
    fn about(self) -> (&'static str, &'static str, Blame, &'static str, Option<&'static str>) {
        use Blame::{Agent, Config, Environment, Runtime};
        let unknown = Blame::Unknown;
        match self {
            Self::CiaoNetworkInterfaces => (
                "ciao-network-interfaces",
                "The mDNS library crashed because network interfaces cannot be listed here: a guard was missing.",
                Runtime,
                "The guards are put in place again and verified before the next start.",
                STATUS,
            ),
            Self::MissingPreload => (
                "missing-preload",
                "Node was told to load a file first that is not there.",
                Runtime,
                "The guards are put in place again and verified before the next start.",
                STATUS,
            ),
            Self::NodeTooOld => (
                "node-too-old",
                "The agent refuses the version of Node under it.",
                Agent,
                "The agent's last healthy version is put back.",
                Some("clawkeep NAME status"),
            ),
            Self::InvalidConfig => (
                "invalid-config",
                "The agent refuses its configuration.",
                Config,
                "The last healthy configuration is put back; the refused one is kept beside it.",
                LOGS,
            ),
            Self::MissingModule => (
                "missing-module",
                "Files of the agent's program are missing or broken.",
                Agent,
                "The agent's files are repaired, or its last healthy version is put back.",
                LOGS,
            ),
            Self::HeapLimit => (
                "heap-limit",
                "The agent's JavaScript heap reached its own limit.",
                unknown,
                "It is started again; if that does not last, the repair widens.",
                LOGS,
            ),
            Self::OutOfMemory => (
                "out-of-memory",
                "The kernel killed the agent because the sandbox's memory was used up.",
                Environment,
                "It is started again after a wait.",
                STATUS,
            ),
            Self::HealthyTwin => (
                "healthy-twin",
                "Another gateway with the same state is running.",
                Runtime,
                "Everything that runs in the sandbox is ended, then it is started again.",
                Some("clawkeep NAME recover"),
            ),
            Self::StaleLock => (
                "stale-lock",
                "A lock was left behind that nobody holds.",
                Runtime,
                "The lock is removed, then it is started again.",
                Some("clawkeep NAME recover"),
            ),
            Self::OutOfDisk => (
                "out-of-disk",
                "The disk is full.",
                Environment,
                "It is started again after a wait, until there is room.",
                Some("df -h"),
            ),
            Self::OutOfInodes => (
                "out-of-inodes",
                "A file could not be made although the disk has room: no inodes are left, or /tmp is full.",
                unknown,
                "The sandbox is made anew with an empty /tmp if starting again does not help.",
                Some("df -i"),
            ),
            Self::FileSizeLimit => (
                "file-size-limit",
                "A file would have grown over the limit for one file.",
                unknown,
                "It is started again; if that does not last, the repair widens.",
                LOGS,
            ),
            Self::TooManyProcesses => (
                "too-many-processes",
                "No more processes could be made in the sandbox.",
                Runtime,
                "Everything that runs in the sandbox is ended, then it is started again.",
                STATUS,
            ),
            Self::TooManyFiles => (
                "too-many-files",
                "The agent had as many files open as it may.",
                unknown,
                "It is started again; if that does not last, the repair widens.",
                LOGS,
            ),
            Self::TlsFailure => (
                "tls-failure",
                "A certificate was not believed.",
                unknown,
                "It is started again; if that does not last, the sandbox is made anew with its certificates.",
                LOGS,
            ),
            Self::PortTaken => (
                "port-taken",
                "Something else listens on the agent's port.",
                Runtime,
                "Everything that runs in the sandbox is ended, then it is started again.",
                Some("clawkeep NAME recover"),
            ),
            Self::DeniedHost => (
                "denied-host",
                "The agent gave up because the proxy refused a host that it asked for.",
                unknown,
                "It is started again; if that does not last, the last healthy configuration is put back.",
                STATUS,
            ),
            Self::DeniedSyscall => (
                "denied-syscall",
                "The agent made a system call that the sandbox forbids, and ended over it.",
                Agent,
                "The agent's last healthy version is put back.",
                LOGS,
            ),
            Self::ExecFailed => (
                "exec-failed",
                "The agent's program could not be executed.",
                Agent,
                "The agent's files are repaired, or its last healthy version is put back.",
                LOGS,
            ),
            Self::UncaughtError => (
                "uncaught-error",
                "An error that nothing caught ended the agent.",
                unknown,
                "It is started again; if that does not last, the repair widens.",
                LOGS,
            ),
            Self::NativeCrash => (
                "native-crash",
                "The agent crashed in native code.",
                unknown,
                "It is started again; if that does not last, the repair widens.",
                LOGS,
            ),
            Self::Killed => (
                "killed",
                "A signal from outside ended the agent.",
                Environment,
                "It is started again.",
                LOGS,
            ),
            Self::Unresponsive => (
                "unresponsive",
                "The agent runs and does not answer.",
                unknown,
                "It is ended and started again; if that does not last, the repair widens.",
                LOGS,
            ),
            Self::Unknown => (
                "unknown",
                "The agent ended for a reason that is not known.",
                unknown,
                "It is started again; if that does not last, the repair widens.",
                LOGS,
            ),
        }
    }
}
