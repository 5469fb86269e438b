//! A sandbox with every layer, `/bin/true` in it, and gone again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::{Duration, Instant};

use clawkeep_isolation::proto::{Ended, Event, Kind, Message, Order, Reply, Request, Spawn, Stdio};
use clawkeep_isolation::{
    CreateError, IdMap, InitHandle, Limits, Mount, MountAccess, Programs, SandboxSpec, System, create,
    destroy, etc_files, expected, wire,
};
use clawkeep_plan::{Digest, EnforcedLevel, NetlinkRule, Receipt, ReceiptError, Tier};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::check::Check;
use crate::explain::explain;
use crate::facts::Facts;

/// The slot of the ids of a sandbox that is only tried: none of the registry's.
pub(crate) const SLOT: u32 = 36_000;

/// How long `/bin/true` may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why it is not proven that a sandbox can be made here.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// There is no place for its directories.
    #[error("no temporary directory can be made: {0}")]
    Scratch(io::Error),
    /// It was made, and something went wrong then.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// What ran in it did not say what is in force.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// Less is in force than should be: which layers.
    #[error("not every wall is in force: {}", .0.join("; "))]
    Short(Vec<String>),
}

impl Unproven {
    /// The cause and the command against it, as far as the host tells.
    pub fn explain(&self, facts: &Facts) -> Option<Check> {
        match self {
            Self::Create(error) => explain(error.step(), facts),
            Self::Scratch(_) => Some(Check::fail(
                "tmp",
                format!("{} does not take it", std::env::temp_dir().display()),
                "export TMPDIR=/a/directory/of/yours",
            )),
            Self::Io(..) | Self::Receipt(_) | Self::Short(_) => None,
        }
    }
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> Unproven {
    move |error| Unproven::Io(step, error)
}

/// A sandbox that was made, and what was seen of it.
#[derive(Debug)]
pub struct Proof {
    /// What was in force around `/bin/true`.
    pub level: EnforcedLevel,
    /// From the order to make it to the end of `/bin/true`, its receipt known.
    pub told: Duration,
    /// To the moment when nothing of the sandbox was left.
    pub gone: Duration,
}

/// Make a sandbox, run `/bin/true` in it, take it away. `program` is this program's own file.
///
/// # Errors
/// [`Unproven`]; nothing is left then either.
pub fn prove(program: &Path) -> Result<Proof, Unproven> {
    let scratch = tempfile::tempdir().map_err(Unproven::Scratch)?;
    let (run, home) = (scratch.path().join("run"), scratch.path().join("home"));
    let ids = IdMap::for_current_user(SLOT);
    std::fs::create_dir(&home).map_err(Unproven::Scratch)?;
    let (uid, gid) = ids.host_agent();
    chown(&home, Some(uid), Some(gid)).map_err(at("give the directory to its user"))?;
    let System { mut mounts, symlinks } = System::of_this_host();
    mounts.push(Mount { source: home, target: "/sandbox".into(), access: MountAccess::ReadWrite });
    let spec = SandboxSpec {
        name: "doctor".into(),
        tier: Tier::Namespaces,
        ids,
        mounts,
        symlinks,
        files: etc_files("doctor"),
        listeners: vec![3128, 53],
        datagrams: vec![53],
        own_ports: vec![],
        tmp_bytes: 16 << 20,
        log_bytes: 64 << 10,
        limits: Limits::default(),
    };
    let started = Instant::now();
    let handle = create(program, &run, &spec)?;
    let told = run_true(&handle, &spec).map(|level| (level, started.elapsed()));
    destroy(&handle).map_err(at("take it away"))?;
    told.map(|(level, told)| Proof { level, told, gone: started.elapsed() })
}

fn run_true(handle: &InitHandle, spec: &SandboxSpec) -> Result<EnforcedLevel, Unproven> {
    let netlink = NetlinkRule::RouteOnly;
    let seccomp =
        Programs::of(netlink).map_err(io::Error::other).map_err(at("build the seccomp programs"))?;
    ask(handle, Order::Hello)?;
    // The first that comes with its answer is its root directory.
    let root = receive(handle)?.1.into_iter().next();
    let root = root.ok_or_else(|| at("reach it")(io::ErrorKind::InvalidData.into()))?;
    let spawn = Spawn {
        id: "true".into(),
        kind: Kind::Gateway,
        plan: Digest::of(b""),
        argv: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        cwd: "/".into(),
        netlink,
        landlock_abi_min: 1,
        stdio: Stdio::Log,
        reports: false,
    };
    ask(handle, Order::Spawn(Box::new(spawn)))?;
    // While it runs: what it says of itself is held against this below, and it cannot change any of it.
    let expected =
        expected(spec, seccomp.digest(), false, root.as_fd()).map_err(at("look at it from outside"))?;
    let (mut receipt, mut ended) = (String::new(), None);
    // It has said everything when it has ended, and said something.
    while ended.is_none() || receipt.is_empty() {
        match receive(handle)?.0 {
            Message::Event(Event::Receipt { text, .. }) => receipt = text,
            Message::Event(Event::Ended { how, .. }) => ended = Some(how),
            Message::Reply { reply: Reply::Failed { step, reason }, .. } => {
                return Err(CreateError::Setup { step, reason }.into());
            }
            // A call that the C library tries and can do without.
            Message::Event(Event::Denied { .. }) | Message::Reply { .. } => {}
        }
    }
    let level = Receipt::parse(receipt.as_bytes())?.isolation.level;
    let mut short = level.shortfalls(&expected);
    if ended != Some(Ended::Exited(0)) {
        short.push(format!("/bin/true ended with {ended:?}"));
    }
    if short.is_empty() { Ok(level) } else { Err(Unproven::Short(short)) }
}

fn ask(handle: &InitHandle, order: Order) -> Result<(), Unproven> {
    wire::send(&handle.connection, &Request { number: 1, order }, &[]).map_err(at("talk to it"))
}

fn receive(handle: &InitHandle) -> Result<(Message, Vec<OwnedFd>), Unproven> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&handle.connection, PollFlags::IN)], Some(&patience)) {
        Err(Errno::INTR) => return receive(handle),
        Err(errno) => Err(errno.into()),
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Ok(_) => wire::receive(&handle.connection)
            .and_then(|message| message.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())),
    }
    .map_err(at("talk to it"))
}
