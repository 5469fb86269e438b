//! From an ordinary process to the first process of a sandbox (without namespaces: `beside.rs`). Two processes, each
//! with one thread:
//!
//! - A, started by the host side: has the caller's rights, writes the id maps of B;
//! - B: process 1 in the new namespaces, takes what the host's tree has to give, builds the root, drops what it does
//!   not need, serves.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use rustix::process::{Pid, Resource};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use clawkeep_plan::Tier;

use crate::beside;
use crate::children::Confinement;
use crate::init;
use crate::log::BoundedLog;
use crate::proc;
use crate::proto::{Setup, SetupOutcome};
use crate::rootfs;
use crate::spec::IdMap;
use crate::{sys, wire};

/// A step of the setup that failed.
#[derive(Debug)]
pub struct Failure {
    pub(crate) step: String,
    pub(crate) error: io::Error,
}

impl Setup {
    /// The size of the private `/tmp`.
    fn tmp_bytes(&self) -> u64 {
        self.amounts.tmp_bytes(self.spec.tmp_bytes)
    }
}

/// What init holds for its whole life.
pub struct Held {
    pub control: OwnedFd,
    pub log: OwnedFd,
    pub lock: OwnedFd,
    /// By which what it starts joins the control group.
    pub doors: Vec<OwnedFd>,
}

/// Files in the private `/tmp` at most: each costs the host memory that no size limit counts.
pub const TMP_INODES: &str = "262144";

/// Say at which step an error happened.
pub fn at<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let step = step.into();
    move |error| Failure { step, error: error.into() }
}

/// The entry of process A. The specification and the descriptors (control socket, log) come over standard
/// input, and so does the answer go back. Returns in A only, when B has its ids.
pub fn sandbox_init_main() -> ExitCode {
    let channel = match rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3) {
        Ok(channel) => channel,
        Err(_) => return ExitCode::from(2),
    };
    match parent(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&channel, &failure);
            ExitCode::FAILURE
        }
    }
}

pub fn report(channel: &OwnedFd, failure: &Failure) {
    let outcome = SetupOutcome::Failed { step: failure.step.clone(), reason: failure.error.to_string() };
    // Nobody is there to hear of a failure to report a failure: the host side sees the end of the channel.
    let _ = wire::send(channel, &outcome, &[]);
}

fn parent(channel: &OwnedFd) -> Result<(), Failure> {
    sys::assert_single_threaded().map_err(at("start the setup"))?;
    let missing = || io::Error::new(io::ErrorKind::UnexpectedEof, "no specification came");
    let (setup, fds) = wire::receive::<Setup>(channel)
        .and_then(|message| message.ok_or_else(missing))
        .map_err(at("read the specification"))?;
    let keep: Vec<_> = [channel].into_iter().chain(&fds).map(AsFd::as_fd).collect();
    sys::close_all_but(3, &keep).map_err(at("close descriptors"))?;
    let mut fds = fds.into_iter();
    let (Some(control), Some(log), Some(lock)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(at("read the specification")(missing()));
    };
    let held = Held { control, log, lock, doors: fds.collect() };
    rustix::process::setsid().map_err(at("start a session"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if setup.spec.tier == Tier::Landlock {
        return beside::leave(channel, &setup, held);
    }
    let ids = setup.spec.ids;
    let tmp = match ids {
        // Made with the host's ids, so that the host side can publish files in it as the sandbox's root.
        IdMap::Range { base } => {
            let options = [
                ("mode", "1777".to_owned()),
                ("size", setup.tmp_bytes().to_string()),
                ("uid", base.to_string()),
                ("gid", base.to_string()),
                ("nr_inodes", TMP_INODES.to_owned()),
            ];
            let options: Vec<_> = options.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            Some(rootfs::new_mount("tmpfs", &options, flags)?)
        }
        IdMap::Single { .. } => None,
    };

    let shared = match ids {
        IdMap::Range { .. } => rootfs::take_shared(&setup.spec)?,
        IdMap::Single { .. } => Vec::new(),
    };

    // Before the user namespace is there: it takes its own upper bounds from these limits.
    limit_counts_of_the_user().map_err(at("limit what is counted for the user"))?;
    let (mapped, tell_mapped) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(at("make a pipe"))?;
    let all = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    let Some(child) = sys::fork_into(all).map_err(at("create namespaces"))? else {
        drop(tell_mapped);
        let failure = match first_process(channel, &setup, held, (tmp, shared), mapped) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        report(channel, &failure);
        sys::exit_now(1)
    };
    map_ids(ids, child)?;
    rustix::io::write(&tell_mapped, b"m").map_err(at("tell that the ids are mapped")).map(drop)
}

/// One byte, or the end.
pub fn wait_byte(pipe: &OwnedFd) -> bool {
    loop {
        match rustix::io::read(pipe, &mut [0_u8; 1]) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result == Ok(1),
        }
    }
}

/// Write the maps of a child that made a user namespace.
pub fn map_ids(ids: IdMap, child: Pid) -> Result<(), Failure> {
    let (uids, gids) = ids.lines();
    let write = |file: &str, text: &str| {
        std::fs::write(format!("/proc/{}/{file}", child.as_raw_nonzero()), text)
            .map_err(at(format!("write {file}")))
    };
    if matches!(ids, IdMap::Single { .. }) {
        // Without privilege the kernel wants this before a group map (user_namespaces(7)).
        write("setgroups", "deny")?;
    }
    write("uid_map", &uids)?;
    write("gid_map", &gids)
}

/// What an agent locks in memory or queues is counted for whoever makes the user namespace as well, together with
/// everything that is theirs (user_namespaces(7), the kernel's ucounts): half of it is left to the host. Queues of
/// messages (mq_overview(7)) are not to be had inside.
fn limit_counts_of_the_user() -> io::Result<()> {
    for (resource, of_unlimited) in [(Resource::Memlock, 128 << 20), (Resource::Sigpending, 16_384)] {
        let now = rustix::process::getrlimit(resource).current.unwrap_or(of_unlimited);
        sys::limit(resource, now / 2)?;
    }
    sys::limit(Resource::Msgqueue, 0)
}

/// Counts that the kernel also charges to whoever made the user namespace, with everything it has in use in
/// other sandboxes and on the host: an agent must not use them up. A kernel without one of them has no such
/// shared count either (proc_sys_user(5)).
fn limit_shared_counts() {
    for (name, most) in
        [("max_inotify_instances", "32"), ("max_inotify_watches", "65536"), ("max_user_namespaces", "0")]
    {
        let _ = std::fs::write(format!("/proc/sys/user/{name}"), most);
    }
}

/// Process B.
fn first_process(
    channel: &OwnedFd,
    setup: &Setup,
    held: Held,
    (tmp, shared): (Option<OwnedFd>, Vec<rootfs::Source>),
    mapped: OwnedFd,
) -> Result<std::convert::Infallible, Failure> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make mounts private"))?;
    // Before the ids change: only the caller's ids may look into the state directory.
    let sources = rootfs::take_sources(&setup.spec, shared)?;
    if !wait_byte(&mapped) {
        // A could not map the ids, and has said why.
        sys::exit_now(1);
    }
    drop(mapped);
    if matches!(setup.spec.ids, IdMap::Range { .. }) {
        rustix::thread::set_thread_groups(&[]).map_err(at("drop groups"))?;
        let (gid, uid) = (rustix::process::Gid::ROOT, rustix::process::Uid::ROOT);
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("become the sandbox's root"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("become the sandbox's root"))?;
    }
    rustix::thread::set_name(c"clawkeep-init").map_err(at("take a name"))?;
    // Nobody in the sandbox may look into this process: its descriptors are the way to the host side.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(at("close itself to others"))?;
    sys::leave_session_keyring().map_err(at("leave the session keyring"))?;
    lock_down_root().map_err(at("lock the secure bits"))?;
    rootfs::enter(&setup.spec, sources, tmp, setup.tmp_bytes())?;
    let spec = &setup.spec;
    limit_shared_counts();
    proc::seal()?;
    sys::loopback_up().map_err(at("bring up the loopback"))?;
    rustix::system::sethostname(spec.name.as_bytes()).map_err(at("take the host name"))?;
    sys::forbid_core_dumps().map_err(at("forbid core dumps"))?;
    sys::usual_descriptors().map_err(at("limit open descriptors"))?;
    let Held { control, log, lock, doors } = held;
    let log = BoundedLog::new(std::fs::File::from(log), spec.log_bytes).map_err(at("open the log"))?;
    let confinement = Confinement::prepare(setup, doors)?;
    let server = init::Server::prepare(setup, confinement, control, log, lock)?;
    drop_capabilities(spec.ids).map_err(at("drop capabilities"))?;
    serve(channel, server)
}

/// The last of the setup: from here on init serves.
pub fn serve(channel: &OwnedFd, server: init::Server) -> Result<std::convert::Infallible, Failure> {
    rustix::thread::set_no_new_privs(true).map_err(at("forbid new privileges"))?;
    wire::send(channel, &SetupOutcome::Ready, &[]).map_err(at("tell that the sandbox is ready"))?;
    detach_stdio(channel).map_err(at("let go of the host's descriptors"))?;
    server.run()
}

/// From here on to be root or to execute a program gives no capability, for ever (capabilities(7), securebits).
fn lock_down_root() -> io::Result<()> {
    use rustix::thread::CapabilitiesSecureBits as Bits;
    let bits =
        Bits::NO_ROOT | Bits::NO_ROOT_LOCKED | Bits::NO_CAP_AMBIENT_RAISE | Bits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits).map_err(Into::into)
}

/// No bounding set: nothing that init starts can have any capability.
fn drop_capabilities(ids: IdMap) -> io::Result<()> {
    drop_bounding_set()?;
    keep_capabilities(ids)
}

/// What init keeps, where it is root, of the sandbox or of the host: to become the agent's user for a child, to signal
/// that user's processes, to give it its terminal.
pub fn keep_capabilities(ids: IdMap) -> io::Result<()> {
    let keep = match ids {
        IdMap::Range { .. } => {
            CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL | CapabilitySet::CHOWN
        }
        IdMap::Single { .. } => CapabilitySet::empty(),
    };
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(Into::into)
}

pub fn drop_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            1 << number,
        )) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn detach_stdio(channel: &OwnedFd) -> io::Result<()> {
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    for number in 0..3 {
        sys::place_fd(null.as_fd(), number)?;
    }
    // The channel's own number too: its other end waits for the end of it.
    rustix::net::shutdown(channel, rustix::net::Shutdown::Both)?;
    Ok(())
}
