use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::{Token, config::token_of};
use crate::document::{self, Document, Found, Owner};

/// The largest configuration that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = document::MAX_DOCUMENT_BYTES;

const DIR: &str = ".openclaw";
const FILE: &str = "openclaw.json";
/// One fixed name: a crash between write and rename leaves one file, which the next write removes.
const TEMP: &str = ".openclaw.json.clawkeep";

/// What to do where a configuration already is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Keep it: it is the user's.
    Never,
    /// Put the new one in its place.
    Always,
}

/// Why the configuration could not be read or written. The directory belongs to the agent: nothing in it is
/// followed or trusted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something other than the expected kind of file is in the way.
    #[error("/sandbox/{what} is {found}, not what it must be; move it away inside the sandbox")]
    InTheWay {
        /// Path below the home.
        what: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// More than [`MAX_CONFIG_BYTES`].
    #[error("/sandbox/.openclaw/openclaw.json is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    /// Not plain JSON. What it holds is not repeated: it holds a token.
    #[error("/sandbox/.openclaw/openclaw.json is not plain JSON (line {line}, column {column})")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The system refused.
    #[error("/sandbox/.openclaw: {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn io(what: &'static str) -> impl Fn(Errno) -> ConfigError {
    move |errno| ConfigError::Io { what, source: errno.into() }
}

/// Write the configuration below the sandbox's home, whole or not at all, also when the power goes. Returns
/// whether it was written ([`Overwrite::Never`] keeps what is there).
///
/// # Errors
/// When something hostile is in the way, or the system refuses.
pub fn write_config(
    home: BorrowedFd<'_>,
    owner: Owner,
    config: &Value,
    overwrite: Overwrite,
) -> Result<bool, ConfigError> {
    let dir = match open_dir(home)? {
        Some(dir) => dir,
        None => document::make_dir(home, DIR, owner)
            .map_err(|source| ConfigError::Io { what: "make the directory", source })?,
    };
    match rustix::fs::statat(&dir, FILE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile => {
            return Err(in_the_way(".openclaw/openclaw.json", stat.st_mode));
        }
        Ok(_) if overwrite == Overwrite::Never => return Ok(false),
        Ok(_) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(io("look at openclaw.json")(errno)),
    }
    match rustix::fs::unlinkat(&dir, TEMP, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::ISDIR) => {
            return Err(ConfigError::InTheWay {
                what: ".openclaw/.openclaw.json.clawkeep",
                found: "a directory",
            });
        }
        Err(errno) => return Err(io("remove an old temporary file")(errno)),
    }
    let mut file = document::create_file(dir.as_fd(), TEMP, owner)
        .map_err(|source| ConfigError::Io { what: "make a file", source })?;
    let bytes = serde_json::to_vec_pretty(config)
        .map_err(|error| ConfigError::Io { what: "write as JSON", source: error.into() })?;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| ConfigError::Io { what: "write", source })?;
    let flags = match overwrite {
        Overwrite::Never => RenameFlags::NOREPLACE,
        Overwrite::Always => RenameFlags::empty(),
    };
    match rustix::fs::renameat_with(&dir, TEMP, &dir, FILE, flags) {
        Ok(()) => {}
        Err(Errno::EXIST) if overwrite == Overwrite::Never => {
            let _ = rustix::fs::unlinkat(&dir, TEMP, AtFlags::empty());
            return Ok(false);
        }
        Err(errno) => return Err(io("rename")(errno)),
    }
    rustix::fs::fsync(&dir).map_err(io("sync"))?;
    Ok(true)
}

/// Read the configuration; `None` when there is none yet.
///
/// # Errors
/// When it is no regular file, too large, or not plain JSON.
pub fn read_config(home: BorrowedFd<'_>) -> Result<Option<Value>, ConfigError> {
    let Some(dir) = open_dir(home)? else { return Ok(None) };
    // Not blocking: a FIFO in its place must not hold us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, FILE, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err(ConfigError::InTheWay { what: ".openclaw/openclaw.json", found: "a symlink" });
        }
        Err(errno) => return Err(io("open openclaw.json")(errno)),
    };
    let read = |source| ConfigError::Io { what: "read openclaw.json", source };
    let stat = file.metadata().map_err(read)?;
    if !stat.is_file() {
        return Err(in_the_way(".openclaw/openclaw.json", stat.mode()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ConfigError::NotJson { line: error.line(), column: error.column() })
}

/// The gateway's token, for the dashboard's address; `None` when there is no configuration or no plain token
/// in it. In safe mode the gateway has a configuration of its own ([`super::SAFE_CONFIG`]).
///
/// # Errors
/// As [`read_config`].
pub fn read_token(home: BorrowedFd<'_>, safe: bool) -> Result<Option<Token>, ConfigError> {
    if !safe {
        return Ok(read_config(home)?.as_ref().and_then(token_of));
    }
    let found = super::SAFE_CONFIG.parse::<Document>().ok().map(|document| document.read(home));
    match found.transpose().map_err(|source| ConfigError::Io { what: "read safe-mode.json", source })? {
        Some(Found::Bytes(bytes)) => Ok(serde_json::from_slice(&bytes).ok().as_ref().and_then(token_of)),
        _ => Ok(None),
    }
}

fn open_dir(home: BorrowedFd<'_>) -> Result<Option<OwnedFd>, ConfigError> {
    match document::open_dir(home, DIR) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            Err(ConfigError::InTheWay { what: DIR, found: "a symlink or no directory" })
        }
        Err(errno) => Err(io("open")(errno)),
    }
}

fn in_the_way(what: &'static str, mode: u32) -> ConfigError {
    let found = match FileType::from_raw_mode(mode) {
        FileType::Symlink => "a symlink",
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        _ => "a special file",
    };
    ConfigError::InTheWay { what, found }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use proptest::prelude::*;
    use rustix::fs::CWD;
    use serde_json::json;

    use super::*;

    struct Home(tempfile::TempDir, OwnedFd);

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = rustix::fs::openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
            Self(dir, fd)
        }

        fn at(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, config: &Value, overwrite: Overwrite) -> Result<bool, ConfigError> {
            write_config(self.1.as_fd(), owner(), config, overwrite)
        }

        fn read(&self) -> Result<Option<Value>, ConfigError> {
            read_config(self.1.as_fd())
        }
    }

    /// As root another uid than ours, so that the test sees the change of owner.
    fn owner() -> Owner {
        let id = if rustix::process::geteuid().is_root() { 998 } else { rustix::process::geteuid().as_raw() };
        let gid =
            if rustix::process::geteuid().is_root() { 998 } else { rustix::process::getegid().as_raw() };
        Owner { uid: id, gid }
    }

    fn mode_and_owner(path: &Path) -> (u32, u32, u32) {
        let stat = path.symlink_metadata().unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    }

    #[test]
    fn the_first_write_makes_the_directory_and_later_ones_keep_what_is_the_users() {
        let home = Home::new();
        let (first, second) = (json!({"gateway": {"auth": {"token": "t1"}}}), json!({"b": 2}));
        assert_eq!(home.read().unwrap(), None);
        assert!(home.write(&first, Overwrite::Never).unwrap());
        let Owner { uid, gid } = owner();
        assert_eq!(mode_and_owner(&home.at(".openclaw")), (0o700, uid, gid));
        assert_eq!(mode_and_owner(&home.at(".openclaw/openclaw.json")), (0o600, uid, gid));
        assert_eq!(read_token(home.1.as_fd(), false).unwrap().unwrap().expose(), "t1");
        assert!(!home.write(&second, Overwrite::Never).unwrap());
        assert_eq!(home.read().unwrap(), Some(first));
        fs::write(home.at(".openclaw/.openclaw.json.clawkeep"), "left by a crash").unwrap();
        assert!(home.write(&second, Overwrite::Always).unwrap());
        assert_eq!(home.read().unwrap(), Some(second));
        assert_eq!(fs::read_dir(home.at(".openclaw")).unwrap().count(), 1);
        assert_eq!(read_token(home.1.as_fd(), false).unwrap(), None);
    }

    #[test]
    fn nothing_hostile_is_followed() {
        let elsewhere = tempfile::tempdir().unwrap();
        let precious = elsewhere.path().join("openclaw.json");
        fs::write(&precious, "{\"precious\":1}").unwrap();
        for overwrite in [Overwrite::Never, Overwrite::Always] {
            let linked = Home::new();
            symlink(elsewhere.path(), linked.at(".openclaw")).unwrap();
            assert!(matches!(linked.write(&json!({}), overwrite), Err(ConfigError::InTheWay { .. })));
            assert!(matches!(linked.read(), Err(ConfigError::InTheWay { .. })));

            let home = Home::new();
            fs::create_dir(home.at(".openclaw")).unwrap();
            symlink(&precious, home.at(".openclaw/openclaw.json")).unwrap();
            assert!(matches!(home.write(&json!({}), overwrite), Err(ConfigError::InTheWay { .. })));
            assert!(matches!(home.read(), Err(ConfigError::InTheWay { .. })));
            fs::remove_file(home.at(".openclaw/openclaw.json")).unwrap();

            // A link where the temporary file goes is removed, not written through.
            symlink(&precious, home.at(".openclaw/.openclaw.json.clawkeep")).unwrap();
            assert!(home.write(&json!({}), overwrite).unwrap());
            assert_eq!(fs::read_to_string(&precious).unwrap(), "{\"precious\":1}");

            for make in [(|p: &Path| fs::create_dir(p).unwrap()) as fn(&Path), |p| {
                rustix::fs::mkfifoat(CWD, p, 0o600.into()).unwrap()
            }] {
                let file = home.at(".openclaw/openclaw.json");
                let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
                make(&file);
                assert!(matches!(home.write(&json!({}), overwrite), Err(ConfigError::InTheWay { .. })));
                assert!(matches!(home.read(), Err(ConfigError::InTheWay { .. })));
            }
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_too_large_or_no_json_is_said_without_its_content() {
        let home = Home::new();
        fs::create_dir(home.at(".openclaw")).unwrap();
        let file = home.at(".openclaw/openclaw.json");
        fs::write(&file, "{\n \"token\": hunter2").unwrap();
        let error = home.read().unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        // A hole of a terabyte costs nothing to make and must cost nothing to read.
        fs::File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(home.read(), Err(ConfigError::TooLarge)));
    }

    proptest! {
        #[test]
        fn any_bytes_in_its_place_are_read_or_refused(bytes: Vec<u8>) {
            let home = Home::new();
            fs::create_dir(home.at(".openclaw")).unwrap();
            fs::write(home.at(".openclaw/openclaw.json"), &bytes).unwrap();
            let parsed = serde_json::from_slice::<Value>(&bytes).ok();
            prop_assert_eq!(home.read().ok().flatten(), parsed);
            let new = json!({"a": 1});
            prop_assert!(home.write(&new, Overwrite::Always).unwrap());
            prop_assert_eq!(home.read().unwrap(), Some(new));
        }
    }
}
