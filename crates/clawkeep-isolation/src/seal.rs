//! The Landlock domain (landlock(7)) of everything that runs in a sandbox, at the highest ABI that the kernel
//! and this program both know, required in full.

use std::io;

use std::path::{Path, PathBuf};

use clawkeep_plan::{Handled, LandlockLevel, Restriction, Tier};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::proto::Kind;
use crate::spec::{MountAccess, SandboxSpec};

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

/// The same in the lower tier: no terminals, which are the host's.
const HOST_DEVICES: &[&str] =
    &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The least ABI that the lower tier can do with: that of scopes for signals and abstract sockets.
pub const LEAST_BESIDE: u32 = 6;

/// What a kernel of some ABI is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The ABI; 0 for none.
    pub abi: u32,
    fs: BitFlags<AccessFs>,
    net: BitFlags<AccessNet>,
    scopes: BitFlags<Scope>,
}

/// What is asked of a kernel whose highest ABI this is.
pub fn asked(kernel_abi: u32, tier: Tier) -> Asked {
    // A later one than the library knows is asked for what the last known one has.
    let known = ABI::from(i32::try_from(kernel_abi).unwrap_or(i32::MAX));
    // Abstract sockets are held by the network namespace where there is one; this is the second wall.
    let scopes = if known >= ABI::V6 { Scope::AbstractUnixSocket | Scope::Signal } else { BitFlags::EMPTY };
    // TCP (ABI 4) is not restricted in the sandbox's own network namespace: there is nothing but its loopback, on which
    // an agent's servers and clients are legitimate, on any port; and rules that allow every port are no wall.
    let net = match tier {
        Tier::Namespaces => BitFlags::EMPTY,
        Tier::Landlock => AccessNet::from_all(known),
    };
    Asked { abi: known as u32, fs: AccessFs::from_all(known), net, scopes }
}

impl Asked {
    /// The same as the kernel's bit masks, of a gateway.
    pub fn handled(self) -> Handled {
        Handled { fs: self.fs.bits(), net: self.net.bits(), scopes: self.scopes.bits() }
    }
}

/// A domain that was prepared and can be entered by many processes.
#[derive(Debug)]
pub struct Seal {
    asked: Asked,
    rules: RulesetCreated,
    /// A directory in which an attempt is made that only the domain refuses.
    tmp: PathBuf,
    /// Laid over it for a gateway, where the kernel has it.
    signals: Option<RulesetCreated>,
}

fn other(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Seal {
    /// Prepare the domain for the file system that this process sees, on a kernel of this ABI.
    ///
    /// # Errors
    /// When the kernel has no Landlock, or less of it than the ABI promises, or than the tier needs.
    pub fn prepare(kernel_abi: u32, spec: &SandboxSpec) -> io::Result<Self> {
        match spec.tier {
            Tier::Namespaces => Self::around(kernel_abi, &[WRITABLE, &spec.writable()].concat(), DEVICES),
            Tier::Landlock => Self::beside(kernel_abi, spec),
        }
    }

    /// In a root of its own: everything can be read.
    fn around(kernel_abi: u32, writable: &[&str], devices: &[&str]) -> io::Result<Self> {
        let asked = asked(kernel_abi, Tier::Namespaces);
        let mut domain = Domain::new(asked, asked.scopes & Scope::AbstractUnixSocket)?;
        domain.read(Path::new("/"))?;
        writable.iter().try_for_each(|path| domain.write(Path::new(path)))?;
        devices.iter().try_for_each(|path| domain.device(path))?;
        let signals = asked.scopes.contains(Scope::Signal).then(signals).transpose()?;
        Ok(Self { asked, rules: domain.rules, tmp: "/tmp".into(), signals })
    }

    /// In the host's root: what is not named cannot be opened. Nobody in it, a person's shell neither, signals anybody
    /// outside of what was started with it: there is everything that runs on the host.
    fn beside(kernel_abi: u32, spec: &SandboxSpec) -> io::Result<Self> {
        let asked = asked(kernel_abi, Tier::Landlock);
        if asked.abi < LEAST_BESIDE {
            return Err(other(format!(
                "the kernel has Landlock ABI {}; without namespaces {LEAST_BESIDE} is the least (Linux 6.12)",
                asked.abi
            )));
        }
        let mut domain = Domain::new(asked, asked.scopes)?;
        for mount in &spec.mounts {
            match mount.access {
                MountAccess::ReadOnly | MountAccess::Shown => domain.read(&mount.source)?,
                MountAccess::ReadWrite | MountAccess::Shared { .. } => domain.write(&mount.source)?,
                MountAccess::Device => {}
            }
        }
        domain.read(Path::new("/proc"))?;
        HOST_DEVICES.iter().try_for_each(|path| domain.device(path))?;
        for port in spec.listeners.iter().chain(&spec.own_ports) {
            domain.port(*port, AccessNet::ConnectTcp)?;
        }
        // Whatever is bound is on the loopback (see `notify.rs`). Zero: any that is free.
        for port in spec.own_ports.iter().chain(&[0]) {
            domain.port(*port, AccessNet::BindTcp)?;
        }
        let tmp = spec.on_the_host("/tmp").ok_or_else(|| other("the sandbox has no /tmp"))?;
        Ok(Self { asked, rules: domain.rules, tmp, signals: None })
    }

    /// Refuse a kernel with a lower ABI than a plan accepts.
    ///
    /// # Errors
    /// Both ABIs, for a person.
    pub fn at_least(&self, least: u32) -> io::Result<()> {
        if self.asked.abi < least {
            return Err(other(format!(
                "the kernel has Landlock ABI {}, the plan needs {least}",
                self.asked.abi
            )));
        }
        Ok(())
    }

    /// Enter the domain, for ever, with all that this thread starts; what for decides whom it may signal. Says how
    /// far it is in force.
    ///
    /// # Errors
    /// When it is not enforced in full.
    pub fn enter(&self, kind: Kind) -> io::Result<LandlockLevel> {
        let Asked { abi, .. } = self.asked;
        let signals = self.signals.iter().filter(|_| kind == Kind::Gateway);
        let mut status = Restriction::None;
        for rules in signals.chain([&self.rules]) {
            let found = rules.try_clone()?.restrict_self().map_err(other)?;
            status = match found.ruleset {
                RulesetStatus::FullyEnforced => Restriction::Full,
                RulesetStatus::PartiallyEnforced => Restriction::Partial,
                RulesetStatus::NotEnforced => Restriction::None,
            };
            if status != Restriction::Full {
                return Err(other(format!("Landlock ABI {abi} is not enforced in full: {status:?}")));
            }
        }
        let tried = refuses_devices(&self.tmp)? && (self.asked.net.is_empty() || refuses_ports()?);
        Ok(LandlockLevel { asked: abi, abi, status, handled: self.asked.handled(), tried })
    }
}

/// A domain in the making.
struct Domain {
    asked: Asked,
    rules: RulesetCreated,
}

impl Domain {
    fn new(asked: Asked, scopes: BitFlags<Scope>) -> io::Result<Self> {
        if asked.abi == 0 {
            return Err(other("this kernel has no Landlock, or it is switched off"));
        }
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(asked.fs)
            .map_err(other)?;
        if !asked.net.is_empty() {
            ruleset = ruleset.handle_access(asked.net).map_err(other)?;
        }
        if !scopes.is_empty() {
            ruleset = ruleset.scope(scopes).map_err(other)?;
        }
        Ok(Self { asked, rules: ruleset.create().map_err(other)? })
    }

    /// Of what this ABI does not restrict there is nothing to allow; of a file, nothing that is about directories.
    fn allow(&mut self, path: &Path, access: BitFlags<AccessFs>) -> io::Result<()> {
        let named = |error: &dyn std::fmt::Display| other(format!("{}: {error}", path.display()));
        let directory = std::fs::metadata(path).map_err(|error| named(&error))?.is_dir();
        let access = if directory { access } else { access & AccessFs::from_file(ABI::V5) };
        let fd = PathFd::new(path).map_err(|error| named(&error))?;
        let rule = PathBeneath::new(fd, access & self.asked.fs);
        (&mut self.rules).add_rule(rule).map(drop).map_err(|error| named(&error))
    }

    fn read(&mut self, path: &Path) -> io::Result<()> {
        self.allow(path, AccessFs::from_read(ABI::V1))
    }

    fn write(&mut self, path: &Path) -> io::Result<()> {
        let devices = AccessFs::MakeChar | AccessFs::MakeBlock;
        self.allow(path, self.asked.fs & !devices)
    }

    fn device(&mut self, path: &str) -> io::Result<()> {
        let mut access = AccessFs::ReadFile | AccessFs::WriteFile;
        access |= AccessFs::Truncate | AccessFs::IoctlDev;
        // Terminals are a directory of them.
        let fd = PathFd::new(path).map_err(other)?;
        (&mut self.rules).add_rule(PathBeneath::new(fd, access & self.asked.fs)).map(drop).map_err(other)
    }

    fn port(&mut self, port: u16, access: AccessNet) -> io::Result<()> {
        (&mut self.rules).add_rule(NetPort::new(port, access)).map(drop).map_err(other)
    }
}

/// A gateway signals what came from it and nothing else: not the shells that people opened beside it, which have
/// the same user. Those are not held so: who opens a shell may end what runs. A layer that says nothing of linking and
/// renaming between directories refuses them (landlock(7), LANDLOCK_ACCESS_FS_REFER): this one leaves them to the
/// other.
fn signals() -> io::Result<RulesetCreated> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .and_then(|rules| rules.scope(Scope::Signal)?.create())
        .map_err(other)?;
    let everywhere = PathBeneath::new(PathFd::new("/").map_err(other)?, AccessFs::Refer);
    rules.add_rule(everywhere).map_err(other)
}

/// Whether a domain refuses what nothing else refuses in this way: making a device node where everybody may make
/// files. Without the right to do so it is EPERM (mknod(2)); a domain is asked before and says EACCES (landlock(7)).
fn refuses_devices(tmp: &Path) -> io::Result<bool> {
    let mut random = [0_u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    // Nobody can have foreseen this name, so nothing is there.
    let path = tmp.join(format!(".clawkeep-{:x}", u128::from_ne_bytes(random)));
    let null = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::empty();
    match rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, mode, null) {
        Err(errno) => Ok(errno == rustix::io::Errno::ACCESS),
        Ok(()) => {
            rustix::fs::unlink(&path)?;
            Ok(false)
        }
    }
}

/// Whether a domain refuses a connection to a port that it does not name, by EACCES (landlock(7)): nobody else does.
fn refuses_ports() -> io::Result<bool> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    // tcpmux: where somebody should serve it after all, the connection is closed unused.
    const UNNAMED: u16 = 1;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    let to = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, UNNAMED);
    Ok(connect(&socket, &to) == Err(rustix::io::Errno::ACCESS))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::path::Path;

    use super::*;
    use crate::sys;

    #[test]
    fn each_abi_is_asked_for_all_that_it_has() {
        let told = |abi, tier| {
            let Handled { fs, net, scopes } = asked(abi, tier).handled();
            (asked(abi, tier).abi, fs, net, scopes)
        };
        let all: Vec<_> = (0..=7).map(|abi| told(abi, Tier::Namespaces)).collect();
        let want = [
            (0, 0, 0, 0),
            (1, 0x1fff, 0, 0),
            (2, 0x3fff, 0, 0), // refer
            (3, 0x7fff, 0, 0), // truncate
            (4, 0x7fff, 0, 0), // TCP
            (5, 0xffff, 0, 0), // ioctl on devices
            (6, 0xffff, 0, 3), // abstract sockets, signals
            (7, 0xffff, 0, 3),
        ];
        assert_eq!(all, want);
        assert_eq!(
            asked(u32::MAX, Tier::Landlock),
            asked(10, Tier::Landlock),
            "a kernel of the future is asked for what is known"
        );
        assert_eq!(told(6, Tier::Landlock), (6, 0xffff, 3, 3), "ports too, where the network is the host's");
    }

    #[test]
    fn without_landlock_or_with_too_little_of_it_there_is_no_domain() {
        let error = Seal::around(0, &[], &[]).unwrap_err().to_string();
        assert_eq!(error, "this kernel has no Landlock, or it is switched off");
        if sys::landlock_abi() < 2 {
            eprintln!("SKIPPED: without_landlock_or_with_too_little_of_it needs Landlock ABI 2");
            return;
        }
        let seal = Seal::around(2, &[], &[]).unwrap();
        assert!(seal.at_least(2).is_ok());
        assert_eq!(
            seal.at_least(3).unwrap_err().to_string(),
            "the kernel has Landlock ABI 2, the plan needs 3"
        );
    }

    /// What a thread in a domain of this ABI can do, by the word for it or its error number.
    fn attempts(abi: u32, inside: &Path, outside: &Path, socket: &SocketAddr) -> Vec<(&'static str, i32)> {
        let number =
            |result: io::Result<()>| result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        let level =
            Seal::around(abi, &[inside.to_str().unwrap()], &[]).unwrap().enter(Kind::Gateway).unwrap();
        assert_eq!((level.asked, level.abi, level.status), (abi, abi, Restriction::Full));
        assert!(level.tried, "the proof of ABI {abi}");
        let parent = rustix::process::getppid().expect("whoever runs the tests");
        let other_directory = inside.join(format!("to-{abi}"));
        fs::create_dir(&other_directory).unwrap();
        vec![
            ("write inside", number(fs::write(inside.join("file"), "x"))),
            ("write outside", number(fs::write(outside.join("file"), "x"))),
            ("read outside", number(fs::read(outside.join("file")).map(drop))),
            ("refer", number(fs::rename(inside.join("file"), other_directory.join("file")))),
            ("truncate", number(truncated(&outside.join("file")))),
            (
                "device",
                number(
                    rustix::termios::tcgetattr(File::open("/dev/zero").unwrap())
                        .map(drop)
                        .map_err(Into::into),
                ),
            ),
            ("abstract socket", number(UnixStream::connect_addr(socket).map(drop))),
            ("signal outward", number(rustix::process::test_kill_process(parent).map_err(Into::into))),
        ]
    }

    /// Cut without the right to write (open(2): it is unspecified what O_TRUNC does here; on Linux it cuts).
    fn truncated(path: &Path) -> io::Result<()> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC;
        Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map(drop)?)
    }

    #[test]
    fn the_domain_of_every_abi_that_this_kernel_has_is_in_force() {
        use libc::{EACCES, ENOTTY, EPERM, EXDEV};
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("file"), "content").unwrap();
        let name = format!("clawkeep-seal-{}", std::process::id());
        let socket = SocketAddr::from_abstract_name(name).unwrap();
        let _listener = UnixListener::bind_addr(&socket).unwrap();
        let newest = sys::landlock_abi().min(7);
        if newest < 7 {
            eprintln!("SKIPPED: the_domain_of_every_abi needs Landlock ABI 7 to try all of them");
        }
        for abi in 1..=newest {
            // A domain is its thread's own.
            let found = std::thread::scope(|scope| {
                scope.spawn(|| attempts(abi, inside.path(), outside.path(), &socket)).join().unwrap()
            });
            let from = |first: u32, errno: i32| if abi >= first { errno } else { 0 };
            let want = [
                ("write inside", 0),
                ("write outside", EACCES),
                ("read outside", 0),
                ("refer", if abi >= 2 { 0 } else { EXDEV }),
                ("truncate", from(3, EACCES)),
                ("device", if abi >= 5 { EACCES } else { ENOTTY }),
                ("abstract socket", from(6, EPERM)),
                ("signal outward", from(6, EPERM)),
            ];
            assert_eq!(found, want, "ABI {abi}");
        }
    }
}
