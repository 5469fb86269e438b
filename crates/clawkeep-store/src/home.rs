use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clawkeep_plan::{Digest, SandboxName};
use rustix::fs::Mode;

use crate::atomic;
use crate::lock::{DaemonLock, LockError};

/// Where everything is kept. All of it is below one directory, mode 0700; two homes are two installations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    run: PathBuf,
}

/// Why a directory cannot be the home.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A relative path.
    #[error("CLAWKEEP_HOME must be an absolute path, {0:?} is not")]
    NotAbsolute(PathBuf),
    /// An ordinary user without `$HOME`.
    #[error("no home directory: set CLAWKEEP_HOME, XDG_DATA_HOME or HOME")]
    NoUserHome,
    /// Something else is in the way.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Somebody else's directory, or a symlink that somebody else made.
    #[error("{} belongs to uid {owner}, not to us (uid {us})", path.display())]
    Foreign {
        /// The directory or symlink.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our effective uid.
        us: u32,
    },
    /// Others could put things in it.
    #[error("{} can be written by others (mode {mode:o}): chmod 700 it when its content is trusted", path.display())]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// On a file system that is mounted read-only.
    #[error("{} is on a read-only file system", .0.display())]
    ReadOnly(PathBuf),
    /// No space or no quota left.
    #[error("no space left for {}", .0.display())]
    Full(PathBuf),
    /// We may not write there.
    #[error("no permission to write {}", .0.display())]
    NotWritable(PathBuf),
    /// Anything else.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl HomeError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(path),
                io::ErrorKind::PermissionDenied => Self::NotWritable(path),
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Self::NotADirectory(path),
                _ => Self::Io { path, source },
            }
        }
    }
}

impl Home {
    /// Where the home is: `$CLAWKEEP_HOME`, else `$NEMOCLAW_HOME`, else `/var/lib/clawkeep` for root and
    /// `$XDG_DATA_HOME/clawkeep` (`~/.local/share/clawkeep`) for a user. `env` reads a variable; empty ones
    /// count as unset, as does a relative XDG_DATA_HOME (XDG base directory specification). Touches nothing.
    ///
    /// # Errors
    /// `NotAbsolute`, `NoUserHome`.
    pub fn locate(env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HomeError> {
        Self::locate_for(rustix::process::geteuid().is_root(), env)
    }

    fn locate_for(root: bool, env: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HomeError> {
        let var = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = var("CLAWKEEP_HOME").or_else(|| var("NEMOCLAW_HOME")) {
            return if path.is_absolute() { Ok(path) } else { Err(HomeError::NotAbsolute(path)) };
        }
        if root {
            return Ok("/var/lib/clawkeep".into());
        }
        let data = var("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let data = data.or_else(|| var("HOME").map(|home| home.join(".local/share")));
        data.map(|data| data.join("clawkeep")).ok_or(HomeError::NoUserHome)
    }

    /// Make the home ready for use: created 0700 where it is missing, its own directories too; refused where
    /// it is not ours alone; a small file is written to see that the disk takes it.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn open(path: &Path) -> Result<Self, HomeError> {
        let home = Self::complete(path)?;
        home.probe()?;
        Ok(home)
    }

    /// As [`Home::open`], but where the disk takes nothing (`Full`, `ReadOnly`) a home that is complete is good
    /// for all that only reads; the second value says what is wrong. On a read-only disk the socket of the host
    /// process is kept below `/run`.
    ///
    /// # Errors
    /// [`HomeError`], also when there is no home yet and none can be made.
    pub fn open_as_it_is(path: &Path) -> Result<(Self, Option<HomeError>), HomeError> {
        let mut home = Self::complete(path)?;
        match home.probe() {
            Ok(()) => Ok((home, None)),
            Err(trouble @ HomeError::Full(_)) => Ok((home, Some(trouble))),
            Err(trouble @ HomeError::ReadOnly(_)) => {
                let run = fallback_run(&home.root);
                // Without it too, what runs is kept running; only asking is not possible then.
                if own_dir(&run).is_ok() {
                    home.run = run;
                }
                Ok((home, Some(trouble)))
            }
            Err(error) => Err(error),
        }
    }

    /// The home with all its directories.
    fn complete(path: &Path) -> Result<Self, HomeError> {
        if !path.is_absolute() {
            return Err(HomeError::NotAbsolute(path.to_owned()));
        }
        if let Some(parent) = path.parent() {
            make_all(parent).map_err(HomeError::at(path))?;
        }
        own_dir(path)?;
        let root = path.canonicalize().map_err(HomeError::at(path))?;
        let home = Self { run: root.join("run"), root };
        for dir in [home.run(), home.bundles(), home.guards(), home.sandboxes(), home.secrets()] {
            own_dir(&dir)?;
        }
        Ok(home)
    }

    /// See that the disk takes something.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn probe(&self) -> Result<(), HomeError> {
        let probe = || {
            let dir = atomic::open_dir(&self.root.join("run"))?;
            // More than a file system may keep inside an inode, so that it needs a block.
            atomic::write(&dir, ".probe", &[b'.'; 8192], Mode::RUSR | Mode::WUSR)?;
            atomic::remove(&dir, ".probe")
        };
        probe().map(drop).map_err(HomeError::at(&self.root))
    }

    /// Where the socket of the host process of the home at this path can be: at its place, or, when it was
    /// started on a read-only disk, below `/run`. Touches nothing.
    pub fn sockets_of(path: &Path) -> [PathBuf; 2] {
        let root = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        [root.join("run"), fallback_run(&root)].map(|run| run.join(SOCKET))
    }

    /// The home directory itself, without symlinks.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The registry and journal.
    pub fn db(&self) -> PathBuf {
        self.root.join("clawkeep.db")
    }

    /// Sockets and log of the host process.
    pub fn run(&self) -> PathBuf {
        self.run.clone()
    }

    /// The socket of the host process's API.
    pub fn socket(&self) -> PathBuf {
        self.run().join(SOCKET)
    }

    /// Installed agents.
    pub fn bundles(&self) -> PathBuf {
        self.root.join("bundles")
    }

    /// Unpacked images, each in a directory named by its digest. Made with the first.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Installed guard bundles, each in a directory named by its digest.
    pub fn guards(&self) -> PathBuf {
        self.root.join("guards")
    }

    /// All sandboxes' directories.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Secret files, a directory for each sandbox.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The directories of one sandbox.
    pub fn sandbox(&self, name: &SandboxName) -> SandboxDirs {
        SandboxDirs { root: self.sandboxes().join(name.as_str()) }
    }

    /// Become the one host process of this home.
    ///
    /// # Errors
    /// [`LockError::AlreadyRunning`] at once when there is one.
    pub fn lock_daemon(&self) -> Result<DaemonLock, LockError> {
        DaemonLock::take(&self.root.join("run/daemon.lock"))
    }
}

/// The directories of one sandbox on the host. None of these paths goes through anything that the sandbox can
/// write; what is below [`SandboxDirs::home`] is hostile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxDirs {
    root: PathBuf,
}

impl SandboxDirs {
    /// All that belongs to the sandbox.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is mounted at `/sandbox`; it survives everything but `destroy`.
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// What the agent finds in the place of `/tmp` where nothing is mounted for it.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Sockets and logs of the running sandbox.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The sandbox's own certificate authority.
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// Files mounted below its `/etc`.
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    /// Make them all, mode 0700 and ours; the isolation hands `home` over to the sandbox's user.
    ///
    /// # Errors
    /// [`HomeError`]. Only the sandbox's own directory is checked for its owner when it is there already.
    pub fn create(&self) -> Result<(), HomeError> {
        own_dir(&self.root)?;
        for dir in [self.home(), self.run(), self.ca(), self.etc()] {
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_dir(&dir) => {}
                made => made.map_err(HomeError::at(&dir))?,
            }
        }
        atomic::sync_at(&self.root).map_err(HomeError::at(&self.root))
    }
}

/// The name of the host process's socket.
const SOCKET: &str = "daemon.sock";

/// A directory in memory for the home at this path: for root and for each user where only they can make one.
fn fallback_run(root: &Path) -> PathBuf {
    let us = rustix::process::geteuid();
    let base = if us.is_root() { "/run".into() } else { format!("/run/user/{}", us.as_raw()) };
    let digest = Digest::of(root.as_os_str().as_encoded_bytes()).to_string();
    Path::new(&base).join(format!("clawkeep-{}", &digest[..16]))
}

fn is_dir(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// As `create_dir_all`, durable.
fn make_all(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_all(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| sync_parent(path)),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), atomic::sync_at)
}

/// See that there is a directory which is ours and nobody else can read or write, else make it 0700. A symlink counts
/// when we or root made it and it leads to such a directory (homes are put on bigger disks that way).
pub(crate) fn own_dir(path: &Path) -> Result<(), HomeError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        // What is put in it is only as durable as its own name.
        Ok(()) => sync_parent(path).map_err(HomeError::at(path))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // On a read-only disk mkdir says so before it says that the directory is there.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && path.exists() => {}
        Err(error) => return Err(HomeError::at(path)(error)),
    }
    let us = rustix::process::geteuid().as_raw();
    let foreign = |owner| HomeError::Foreign { path: path.to_owned(), owner, us };
    let link = std::fs::symlink_metadata(path).map_err(HomeError::at(path))?;
    if link.is_symlink() && link.uid() != us && link.uid() != 0 {
        return Err(foreign(link.uid()));
    }
    let found = std::fs::metadata(path).map_err(HomeError::at(path))?;
    if !found.is_dir() {
        return Err(HomeError::NotADirectory(path.to_owned()));
    }
    if found.uid() != us {
        return Err(foreign(found.uid()));
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(HomeError::WritableByOthers { path: path.to_owned(), mode });
    }
    // To let others pass through to what they are shown is not to let them look (the lower tier of sandboxes of root).
    if mode & 0o066 != 0 {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, private).map_err(HomeError::at(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn located(root: bool, vars: &[(&str, &str)]) -> Result<PathBuf, HomeError> {
        Home::locate_for(root, |name| {
            vars.iter().find(|(have, _)| *have == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn locates_in_the_documented_order() {
        let all = [("CLAWKEEP_HOME", "/a"), ("NEMOCLAW_HOME", "/b"), ("XDG_DATA_HOME", "/c"), ("HOME", "/d")];
        assert_eq!(located(false, &all).unwrap(), Path::new("/a"));
        assert_eq!(located(true, &all[1..]).unwrap(), Path::new("/b"));
        assert_eq!(located(true, &all[2..]).unwrap(), Path::new("/var/lib/clawkeep"));
        assert_eq!(located(false, &all[2..]).unwrap(), Path::new("/c/clawkeep"));
        assert_eq!(located(false, &all[3..]).unwrap(), Path::new("/d/.local/share/clawkeep"));
        let odd = [("CLAWKEEP_HOME", ""), ("XDG_DATA_HOME", "c"), ("HOME", "/d")];
        assert_eq!(located(false, &odd).unwrap(), Path::new("/d/.local/share/clawkeep"));
        assert!(matches!(located(true, &[("CLAWKEEP_HOME", "a")]), Err(HomeError::NotAbsolute(_))));
        assert!(matches!(located(false, &[]), Err(HomeError::NoUserHome)));
    }

    #[test]
    fn makes_the_layout_private_and_opens_it_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/er/home");
        let home = Home::open(&path).unwrap();
        assert_eq!(Home::open(&path).unwrap(), home);
        let name: SandboxName = "box".parse().unwrap();
        home.sandbox(&name).create().unwrap();
        home.sandbox(&name).create().unwrap();
        let sandbox = home.sandbox(&name);
        for dir in [path, home.run(), home.secrets(), sandbox.home(), sandbox.ca(), sandbox.etc()] {
            assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700, "{}", dir.display());
        }
        assert_eq!(std::fs::read_dir(home.run()).unwrap().count(), 0);
        assert_eq!(home.db(), home.root().join("clawkeep.db"));
        assert_eq!(sandbox.run(), home.root().join("sandboxes/box/run"));
    }

    #[test]
    fn tightens_its_own_and_refuses_what_others_can_write() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("home");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Home::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        for mode in [0o720, 0o702, 0o777] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Home::open(&path).unwrap_err();
            assert!(matches!(error, HomeError::WritableByOthers { mode: m, .. } if m == mode), "{error}");
        }
        let file = temp.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Home::open(&file), Err(HomeError::NotADirectory(_))));
        assert!(matches!(Home::open(&file.join("below")), Err(HomeError::NotADirectory(_))));
        assert!(matches!(Home::open(Path::new("home")), Err(HomeError::NotAbsolute(_))));
    }

    #[test]
    fn follows_our_symlink_and_refuses_foreign_things() {
        let temp = tempfile::tempdir().unwrap();
        let (real, link) = (temp.path().join("real"), temp.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        assert_eq!(Home::open(&link).unwrap().root(), real.canonicalize().unwrap());
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: the part with foreign owners needs root");
            return;
        }
        lchown(&link, Some(12345), None).unwrap();
        assert!(matches!(Home::open(&link), Err(HomeError::Foreign { owner: 12345, us: 0, .. })));
        lchown(&link, Some(0), None).unwrap();
        lchown(&real, Some(12345), None).unwrap();
        assert!(matches!(Home::open(&link), Err(HomeError::Foreign { owner: 12345, .. })));
        assert!(matches!(Home::open(&real), Err(HomeError::Foreign { owner: 12345, .. })));
    }
}
