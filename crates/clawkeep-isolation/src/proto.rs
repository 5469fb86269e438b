//! What the host side and a sandbox's init say to each other over the control socket.

use std::collections::BTreeMap;

use clawkeep_plan::{Digest, NetlinkRule};
use serde::{Deserialize, Serialize};

use crate::cgroup::Amounts;
use crate::mark::Mark;
use crate::seccomp::{Programs, SeccompError};
use crate::spec::SandboxSpec;

/// From the host to init. Each is answered by one [`Reply`] with the same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the asker, given back in the answer.
    pub number: u64,
    /// What is wanted.
    pub order: Order,
}

/// What init can be asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Tell what there is. The answer carries as descriptors the root directory as it is inside, and then each
    /// listener and each datagram socket.
    Hello,
    /// Start a process. The answer carries its pidfd and, for a terminal, the master side.
    Spawn(Box<Spawn>),
    /// Make an unconnected TCP socket in the sandbox's network namespace; the answer carries it.
    Socket,
    /// Make a socket that asks the kernel about the sockets of the sandbox's network namespace (sock_diag(7)); the
    /// answer carries it.
    Diagnostics,
    /// Kill every process but init and, on request, the sessions; answered when they are gone.
    KillAll {
        /// Leave processes of live sessions (shells that people opened) alone.
        spare_sessions: bool,
    },
    /// Send a signal to one process that was spawned by this name, and to nothing else.
    Signal {
        /// Its name.
        id: String,
        /// The signal's number (signal(7)).
        signal: i32,
    },
    /// Forget a process that ended.
    Forget {
        /// Its name.
        id: String,
    },
    /// Append a line to the gateway's log.
    Log {
        /// Without the newline.
        line: String,
    },
}

/// One process to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// A name for it that is not in use.
    pub id: String,
    /// What it is for.
    pub kind: Kind,
    /// The plan that it is launched for; for a session, the digest of nothing.
    pub plan: Digest,
    /// Program, by absolute path inside, and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// Which of the two seccomp profiles.
    pub netlink: NetlinkRule,
    /// The least Landlock ABI that it may run under.
    pub landlock_abi_min: u32,
    /// Where standard input and output go.
    pub stdio: Stdio,
    /// Whether the program finds its receipt pipe at [`clawkeep_plan::RECEIPT_FD`], to report its guards. A
    /// program that has nothing to report must not hold it.
    pub reports: bool,
}

/// What a process in the sandbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The agent itself: has a receipt, and its output goes to the log.
    Gateway,
    /// A shell or command that a person opened.
    Session,
}

/// Where standard input and output of a process go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdio {
    /// Input from /dev/null, output to the gateway's log.
    Log,
    /// The three descriptors that came with the request.
    Given,
    /// A new pseudo-terminal of the sandbox's own.
    Terminal {
        /// Its height in lines.
        rows: u16,
        /// Its width in columns.
        columns: u16,
    },
}

/// From init to the host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's number.
        number: u64,
        /// Its outcome.
        reply: Reply,
    },
    /// Something happened.
    Event(Event),
}

/// The outcome of an [`Order`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// Version of the program that init is.
        version: String,
        /// Digest of the specification that the sandbox was made from.
        spec: Digest,
        /// Ports of the listeners, in the order of their descriptors.
        listeners: Vec<u16>,
        /// Ports of the datagram sockets, whose descriptors follow in this order.
        datagrams: Vec<u16>,
        /// Everything that was spawned and is not forgotten.
        children: Vec<Child>,
    },
    /// To `Spawn`: pid as seen in the sandbox.
    Spawned {
        /// The pid.
        pid: i32,
    },
    /// To `KillAll`: how many processes would not die within init's patience.
    Killed {
        /// Zero is what is expected.
        left: u32,
    },
    /// Done.
    Done,
    /// Not done.
    Failed {
        /// What was tried.
        step: String,
        /// Why not, for a person.
        reason: String,
    },
}

/// A process that init started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub id: String,
    /// What it is for.
    pub kind: Kind,
    /// The plan it was launched for.
    pub plan: Digest,
    /// Pid as seen in the sandbox.
    pub pid: i32,
    /// What has come over its receipt pipe so far.
    pub receipt: String,
    /// System calls, by number, that were refused to it or to what came from it; each once.
    #[serde(default)]
    pub denied: Vec<i64>,
    /// How it ended, if it has.
    pub ended: Option<Ended>,
}

/// How a process ended (wait(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
}

/// What init tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A process ended.
    Ended {
        /// Its name.
        id: String,
        /// How.
        how: Ended,
    },
    /// The whole content of a receipt pipe so far; sent again whenever it grows.
    Receipt {
        /// The name of the process it is of.
        id: String,
        /// Hostile text.
        text: String,
    },
    /// A process was refused a system call for the first time.
    Denied {
        /// The name of the process that was spawned: it, or what came from it, made the call.
        id: String,
        /// The call's number.
        call: i64,
    },
}

/// What the host tells the setup once. The control socket, the log and the lock come with it, and what a process
/// of the agent writes to in order to join the control group.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub spec: SandboxSpec,
    /// [`SandboxSpec::digest`], and the seccomp programs that it is over: they take longer to build than to send, and
    /// the host side has them at hand.
    pub digest: Digest,
    pub route_only: Programs,
    pub no_netlink: Programs,
    pub amounts: Amounts,
    /// By what its processes are known, where they have no namespace of their own.
    pub mark: Option<Mark>,
}

impl Setup {
    pub fn new(spec: SandboxSpec, amounts: Amounts, mark: Option<Mark>) -> Result<Self, SeccompError> {
        let programs = |rule| spec.programs(rule).cloned();
        let (route_only, no_netlink) = (programs(NetlinkRule::RouteOnly)?, programs(NetlinkRule::Refused)?);
        Ok(Self { digest: spec.digest(), route_only, no_netlink, spec, amounts, mark })
    }
}

/// What the setup tells the host once, over its standard input.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SetupOutcome {
    Ready,
    Failed { step: String, reason: String },
}

#[cfg(test)]
mod tests {
    use clawkeep_plan::Tier;

    use super::*;
    use crate::cgroup::Limits;
    use crate::spec::IdMap;
    use crate::wire::MAX_MESSAGE;

    #[test]
    fn the_setup_gets_the_programs_that_the_host_side_built() {
        for tier in [Tier::Namespaces, Tier::Landlock] {
            let spec = SandboxSpec {
                name: "box".into(),
                tier,
                ids: IdMap::Single { uid: 1000, gid: 1000 },
                mounts: vec![],
                symlinks: vec![],
                files: vec![],
                listeners: vec![],
                datagrams: vec![],
                own_ports: vec![],
                tmp_bytes: 1,
                log_bytes: 1,
                limits: Limits::default(),
            };
            let setup = Setup::new(spec.clone(), spec.limits.amounts(1 << 30), None).unwrap();
            assert_eq!(setup.digest, spec.digest());
            let sent = serde_json::to_vec(&setup).unwrap();
            assert!(sent.len() < MAX_MESSAGE / 2, "{}", sent.len());
            let got: Setup = serde_json::from_slice(&sent).unwrap();
            for (got, rule) in
                [(&got.route_only, NetlinkRule::RouteOnly), (&got.no_netlink, NetlinkRule::Refused)]
            {
                // Every instruction of both forms, and the digest.
                assert_eq!(format!("{got:?}"), format!("{:?}", spec.programs(rule).unwrap()));
            }
        }
    }
}
