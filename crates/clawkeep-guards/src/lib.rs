//! The guard bundle: small JavaScript preloads that keep the OpenClaw gateway alive in a sandbox.
//!
//! The sources lie in `js/` and are embedded in the binary. [`Package`] installs them on the host, from where
//! they are mounted read-only into a sandbox: the gateway loads those, and no process in the sandbox can
//! touch them. [`Publisher`] puts copies in the sandbox's `/tmp`, for shells and old scripts; [`Watcher`]
//! tells when somebody laid hands on them. [`environment`] and [`env_file`] say the same thing to the gateway
//! and to the shells, from one table.
//!
//! Whatever lies in a sandbox's `/tmp` is hostile: nothing here follows a link in it, opens a pipe of it,
//! reads more than a bound of it, or executes a byte of it.
#![forbid(unsafe_code)]

mod env;
mod guard;
mod look;
mod package;
mod publish;
mod watch;

pub use env::{CA_BUNDLE, ENV_FILE_NAME, EnvFile, env_file, environment, published_files};
pub use guard::{
    GUARDS_MOUNT, Guard, PROCESS_ENV, RECEIPT_FD_ENV, RECEIPT_GUARDS_ENV, all, private_tmp, select,
};
pub use look::MAX_FILE_BYTES;
pub use package::{InstallError, Package};
pub use publish::{PublishError, Published, Publisher};
pub use watch::Watcher;
