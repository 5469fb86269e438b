use serde::{Deserialize, Serialize};

use crate::target::Runtime;

/// What an attempt is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Out over a network or a socket.
    Egress,
    /// The kernel's more dangerous calls.
    Kernel,
    /// What is not the sandbox's to read or write.
    Filesystem,
    /// More rights.
    Privilege,
    /// Taking everything, killing everything, and waiting for the next start.
    Lifecycle,
}

impl Group {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Kernel => "kernel",
            Self::Filesystem => "filesystem",
            Self::Privilege => "privilege",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// One thing to try.
#[derive(Debug)]
pub struct Attempt {
    /// Stable, in kebab case.
    pub id: &'static str,
    /// What it is aimed at.
    pub group: Group,
    /// What is tried, in one line.
    pub tries: &'static str,
    /// The legitimate neighbour of the attack made from the static program; scripts bring their own.
    pub(crate) control: Control,
    /// The programs that try it.
    pub(crate) ways: &'static [Way],
    /// Where it can be tried.
    pub(crate) needs: Needs,
}

/// The legitimate neighbour.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Control {
    /// A tunnel to the model's route through the proxy; where there is no proxy, a connection on the loopback.
    Proxy,
    /// The first where the target has netlink sockets, else the second; the third without namespaces.
    Routes(Steps, Steps, Steps),
    /// The first, where the target has sockets of all the ordinary kinds; the second without namespaces, where init
    /// gives TCP alone.
    Sockets(Steps, Steps),
    /// This.
    Steps(Steps),
}

/// One program that tries it, and the answers of which each shows that the wall stands.
#[derive(Debug)]
pub(crate) struct Way {
    pub attack: Attack,
    pub expect: &'static [&'static str],
}

/// What is run.
#[derive(Debug)]
pub(crate) enum Attack {
    /// By the static program.
    Steps(Steps),
    /// A script that says what it found; see `scripts.rs`.
    Script(Runtime, &'static str),
}

/// A program for the payload (`payload/program.rs`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Steps {
    /// System calls in order, until the first error.
    Calls(&'static [Call]),
    /// One of its other verbs, with its words.
    Verb(&'static [Word]),
    /// A message to the kernel's routing socket; the answer is the error that it sends back (rtnetlink(7)).
    Netlink(&'static [u8]),
    /// Bytes to the proxy; the answer is the status of the reply.
    ToProxy(&'static str),
}

/// A system call.
#[derive(Debug)]
pub(crate) struct Call {
    pub number: i64,
    pub arguments: &'static [Arg],
}

/// A word for the payload.
#[derive(Debug)]
pub(crate) enum Word {
    Text(&'static str),
    /// The number of a system call.
    Number(i64),
    /// Processes that are too many, by the target's limit.
    TooManyProcesses,
    /// Memory that is too much, by the target's limit, in MiB.
    TooMuchMemory,
}

/// An argument of a system call.
#[derive(Debug)]
pub(crate) enum Arg {
    Int(i64),
    /// A path or other text, with a NUL behind it; a path inside is led to its place, see `target::Places`.
    Text(&'static str),
    Bytes(&'static [u8]),
    /// A zeroed buffer of so many bytes.
    Zeros(u16),
    /// What the call of this index gave.
    Result(u8),
    /// The calling process.
    Own,
    /// Another process of the same user: the gateway, where there is one.
    Sibling,
    /// The sandbox's first process.
    Init,
    /// A process on the host.
    HostPid,
    /// `sockaddr_in` (ip(7)).
    Inet([u8; 4], u16),
    /// `sockaddr_in6` (ipv6(7)).
    Inet6([u8; 16], u16),
    /// `sockaddr_un` (unix(7)).
    Unix(&'static str),
    /// `sockaddr_in` of the host's listener.
    TcpCanary,
    /// `sockaddr_in` of the host's UDP socket.
    UdpCanary,
    /// `sockaddr_un` of the host's abstract socket; its length is [`crate::canaries::ABSTRACT_LEN`].
    AbstractCanary,
    /// Path of the host's file, as the host names it.
    FileCanary,
    /// What tells the canaries that it was us.
    Token,
    /// A size of a file that is too large, by the target's limit, in bytes.
    TooLarge,
}

/// Where an attempt can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Everywhere: what it does, where it succeeds, harms nobody.
    Nothing,
    /// In a target that has processes of its own: elsewhere it would end those of others.
    OwnProcesses,
    /// With a limit of processes in force.
    ProcessLimit,
    /// With a limit of memory in force that is small enough to be reached.
    MemoryLimit,
    /// With a limit of a file's size in force.
    FileLimit,
    /// In a target that has a network of its own.
    OwnNetwork,
    /// In a target that shows parts of the host: another system's files are nobody's secret.
    HostSystem,
    /// In a target whose agent has left the groups of whoever runs it.
    OwnGroups,
    /// With guards.
    Guards,
    /// With a proxy that leads out.
    Proxy,
    /// With a name server on its loopback.
    NameServer,
    /// In a target whose system is not to be written by whoever drills it.
    ReadOnlySystem,
    /// On x86-64.
    X86,
}
