//! One process tree in namespaces, Landlock, seccomp and cgroups, and a tiny init in it.
//!
//! The host side calls [`create`] with a [`SandboxSpec`]; a process started for it ([`sandbox_init_main`])
//! becomes the sandbox's first process and serves [`proto::Order`]s over a control socket that outlives the
//! daemon. Everything it starts runs with no capability, no new privileges, in a Landlock domain and under
//! the seccomp program of [`Programs`], within [`Limits`] that a control group keeps, and reports on a receipt pipe
//! what it reads back about itself.
//!
//! This is one of the few crates that talk to the kernel directly; all `unsafe` of it is in `sys.rs`.
#![deny(unsafe_code)]

mod audit;
mod beside;
mod broker;
mod cgroup;
mod children;
mod create;
mod expect;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod idmap;
mod init;
mod log;
mod mark;
mod mountinfo;
mod mounts;
mod notify;
mod proc;
mod procself;
pub mod proto;
mod readback;
mod rootfs;
mod seal;
mod seccomp;
mod sockets;
mod spec;
mod stage;
#[allow(unsafe_code)]
mod sys;
mod system;
mod trial;
pub mod wire;

pub use cgroup::{Cgroup, Enforced, Hierarchy, Host, Limits, LimitsError, Usage};
pub use create::{
    CreateError, InitHandle, LOG, SETUP_COMMAND, create, destroy, find, remove, start_time, start_time_in,
};
pub use expect::{expected, wrong_mounts};
pub use mark::Mark;
pub use mountinfo::points;
pub use procself::{Status, id_map};
pub use seccomp::{Profile, Programs, SeccompError, refused_call};
pub use spec::{AGENT_ID, FIRST_ID, ID_RANGE, IdMap, Mount, MountAccess, SandboxSpec};
pub use stage::sandbox_init_main;
pub use sys::{landlock, landlock_abi};
pub use system::{System, etc_files, read_only};
pub use trial::{Piece, TRIAL_COMMAND, Trials, sandbox_trial_main, trials};
