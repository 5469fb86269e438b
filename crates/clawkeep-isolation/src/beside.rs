//! From an ordinary process to the first process of a sandbox without namespaces, beside the host's own: for the
//! lower tier. Init is the host's in everything but its rights; what it starts goes behind Landlock and seccomp.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Gid, Uid};

use crate::children::Confinement;
use crate::init::Server;
use crate::log::BoundedLog;
use crate::mark::proc_shows_all;
use crate::proto::Setup;
use crate::spec::IdMap;
use crate::stage::{Failure, Held, at, drop_bounding_set, keep_capabilities, report, serve};
use crate::sys;

/// In the process that was started for it: leave init behind, and end.
pub fn leave(channel: &OwnedFd, setup: &Setup, held: Held) -> Result<(), Failure> {
    if sys::fork().map_err(at("fork"))?.is_some() {
        return Ok(());
    }
    let failure = match first_process(channel, setup, held) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    report(channel, &failure);
    sys::exit_now(1)
}

fn first_process(channel: &OwnedFd, setup: &Setup, held: Held) -> Result<Infallible, Failure> {
    let spec = &setup.spec;
    rustix::thread::set_name(c"clawkeep-init").map_err(at("take a name"))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(at("close itself to others"))?;
    // Whatever loses its parent among what it starts is its child.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(at("become a subreaper"))?;
    sys::leave_session_keyring().map_err(at("leave the session keyring"))?;
    rustix::process::chdir("/").map_err(at("leave the working directory"))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(at("look at /proc"))?;
    if !proc_shows_all(&mounts) {
        let why = "this host's /proc hides processes (hidepid): those of an agent could not be found again";
        return Err(at("look at /proc")(io::Error::other(why)));
    }
    sys::forbid_core_dumps().map_err(at("forbid core dumps"))?;
    sys::usual_descriptors().map_err(at("limit open descriptors"))?;
    let Held { control, log, lock, doors } = held;
    let log = BoundedLog::new(std::fs::File::from(log), spec.log_bytes).map_err(at("open the log"))?;
    let confinement = Confinement::prepare(setup, doors)?;
    let server = Server::prepare(setup, confinement, control, log, lock)?;
    if let IdMap::Range { base } = spec.ids {
        become_the_sandboxs_root(base).map_err(at("become the sandbox's root"))?;
    }
    keep_capabilities(spec.ids).map_err(at("drop capabilities"))?;
    serve(channel, server)
}

/// With the id that owns what is published for the agent: nobody's but this sandbox's, and not the agent's own.
fn become_the_sandboxs_root(base: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(base), Gid::from_raw(base));
    drop_bounding_set()?;
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(Into::into)
}
