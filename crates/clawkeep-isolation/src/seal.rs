//! The Landlock domain (landlock(7)) of everything that runs in a sandbox, at the highest ABI that the kernel
//! and the library both know, required in full.

use std::io;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::sys;

/// Directories that an agent may write to. Device nodes follow below.
const WRITABLE: &[&str] = &["/sandbox", "/tmp", "/dev/shm"];

/// Device nodes and terminals: read, write and device control.
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// A domain that was prepared and can be entered by many processes.
#[derive(Debug)]
pub struct Seal {
    rules: RulesetCreated,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Seal {
    /// Prepare the domain for the file system that this process sees.
    ///
    /// # Errors
    /// When the kernel has no Landlock, or less of it than the ABI promises.
    pub fn prepare() -> io::Result<Self> {
        let abi = ABI::from(i32::try_from(sys::landlock_abi()).unwrap_or(0));
        if abi == ABI::Unsupported {
            return Err(other(
                "this kernel has no Landlock (needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK and \"landlock\" among the lsm= modules)",
            ));
        }
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(abi))
            .map_err(other)?;
        if abi >= ABI::V6 {
            // Signals need no scope: the process-id namespace holds them. Abstract sockets are held by the
            // network namespace; this is the second wall for tiers that have none.
            ruleset = ruleset.scope(Scope::AbstractUnixSocket).map_err(other)?;
        }
        let mut rules = ruleset.create().map_err(other)?;
        let mut allow = |path: &str, access| -> io::Result<()> {
            let fd = PathFd::new(path).map_err(other)?;
            (&mut rules).add_rule(PathBeneath::new(fd, access)).map(drop).map_err(other)
        };
        allow("/", AccessFs::from_read(abi))?;
        for path in WRITABLE {
            let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
            allow(path, AccessFs::from_all(abi) & !devices)?;
        }
        for path in DEVICES {
            let mut access = AccessFs::ReadFile | AccessFs::WriteFile;
            if abi >= ABI::V3 {
                access |= AccessFs::Truncate;
            }
            if abi >= ABI::V5 {
                access |= AccessFs::IoctlDev;
            }
            allow(path, access)?;
        }
        Ok(Self { rules })
    }

    /// Enter the domain, for ever, with all that this thread starts. Gives the ABI that is in force.
    ///
    /// # Errors
    /// When it is not enforced in full.
    pub fn enter(&self) -> io::Result<u32> {
        let status = self.rules.try_clone()?.restrict_self().map_err(other)?;
        match (status.ruleset, status.landlock) {
            (RulesetStatus::FullyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
                Ok(effective_abi as u32)
            }
            (ruleset, landlock) => {
                Err(other(format!("Landlock is not enforced in full: {ruleset:?}, {landlock:?}")))
            }
        }
    }
}
