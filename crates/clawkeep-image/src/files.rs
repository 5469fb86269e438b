//! What an unpacked image is made of, file by file: a list that is pinned by the image's record, and beside it the
//! stamps that the file system gave each file when it was last found as listed. A file whose stamp is the same was not
//! written to since, by whatever call: its change time (inode(7)) cannot be set. So a look at the stamps is enough
//! before a sandbox is made; only where one differs (the images were moved to another disk, say) the file is read.
//! What a disk does to a file behind the back of its file system is found only by reading all of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clawkeep_plan::Digest;
use clawkeep_store::atomic;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};

/// The list, beside the tree.
pub const LIST: &str = "files";

/// The stamps, line by line in the order of the list.
const STAMPS: &str = "stamps";

/// More than any list has, in bytes: a million entries, and their names.
const MAX_LIST: u64 = 512 << 20;

/// As many as are named of what is wrong.
const MOST_NAMED: usize = 5;

const BELOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// How closely is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every file that was written to since it was found as listed is read.
    Stamps,
    /// Every file is read.
    Contents,
}

/// List what is in `tree` and stamp it, in `dir`. Gives the digest of the list.
pub fn list(dir: &OwnedFd, tree: &OwnedFd) -> io::Result<Digest> {
    let (mut lines, mut stamps) = (String::new(), String::new());
    for path in paths(tree)? {
        let stat = look(tree, &path)?;
        let _ = writeln!(lines, "{} {}", escaped(&path), describe(tree, &path, &stat)?);
        let _ = writeln!(stamps, "{}", stamp(&stat));
    }
    let mode = Mode::from_raw_mode(0o600);
    atomic::write(dir, LIST, lines.as_bytes(), mode)?;
    atomic::write(dir, STAMPS, stamps.as_bytes(), mode)?;
    Ok(Digest::of(lines.as_bytes()))
}

/// What of a tree is not as listed, by name; at most a few. The list must have this digest.
pub fn check(dir: &Path, tree: &Path, pinned: Digest, depth: Depth) -> io::Result<Vec<String>> {
    let read = |name: &str| {
        let file = open(&atomic::open_dir(dir)?, name.as_bytes(), OFlags::RDONLY)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(File::from(file), MAX_LIST), &mut text).map(|_| text)
    };
    let tree = atomic::open_dir(tree)?;
    let Some(lines) = read(LIST).ok().filter(|text| Digest::of(text.as_bytes()) == pinned) else {
        return Ok(vec!["the list of its files".to_owned()]);
    };
    let stamps = read(STAMPS).unwrap_or_default();
    let mut stamps = stamps.lines();
    let (mut wrong, mut found, mut changed, mut is_new) = (Vec::new(), String::new(), Vec::new(), false);
    for line in lines.lines() {
        let (name, wanted) = line.split_once(' ').unwrap_or((line, ""));
        let path = unescaped(name);
        let Ok(stat) = look(&tree, &path) else {
            wrong.push(shown(name));
            continue;
        };
        let now = stamp(&stat);
        let same = stamps.next() == Some(now.as_str());
        if !same || depth == Depth::Contents {
            if describe(&tree, &path, &stat).ok().as_deref() != Some(wanted) {
                wrong.push(shown(name));
            }
            if wanted.starts_with('d') {
                changed.push(path);
            }
        }
        is_new |= !same;
        let _ = writeln!(found, "{now}");
    }
    if !changed.is_empty() && wrong.is_empty() {
        let known: BTreeSet<_> = lines.lines().filter_map(|line| line.split(' ').next()).collect();
        for above in &changed {
            let names = names(&tree, above)?.into_iter().map(|name| escaped(&below(above, &name)));
            wrong.extend(names.filter(|name| !known.contains(name.as_str())).map(|name| shown(&name)));
        }
    }
    if wrong.is_empty() && is_new {
        // Without them the next look reads these files again.
        let kept = atomic::open_dir(dir)
            .and_then(|dir| atomic::write(&dir, STAMPS, found.as_bytes(), Mode::from_raw_mode(0o600)));
        drop(kept);
    }
    wrong.truncate(MOST_NAMED);
    Ok(wrong)
}

/// The tree itself, and all that is in it, each directory before what is in it.
fn paths(tree: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let (mut all, mut next) = (Vec::new(), vec![b".".to_vec()]);
    while let Some(path) = next.pop() {
        if FileType::from_raw_mode(look(tree, &path)?.st_mode).is_dir() {
            next.extend(names(tree, &path)?.iter().rev().map(|name| below(&path, name)));
        }
        all.push(path);
    }
    Ok(all)
}

fn below(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above == b"." { name.to_vec() } else { [above, b"/", name].concat() }
}

fn names(tree: &OwnedFd, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let dir = open(tree, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort();
    Ok(names)
}

fn open(tree: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = std::ffi::OsStr::from_bytes(path);
    Ok(rustix::fs::openat2(tree, path, flags, Mode::empty(), BELOW)?)
}

fn look(tree: &OwnedFd, path: &[u8]) -> io::Result<Stat> {
    Ok(rustix::fs::statat(tree, path, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// All that matters of a file: what it is, its mode, its content.
fn describe(tree: &OwnedFd, path: &[u8], stat: &Stat) -> io::Result<String> {
    let mode = stat.st_mode & 0o7777;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => format!("d {mode:o}"),
        FileType::Symlink => {
            format!("l {}", escaped(rustix::fs::readlinkat(tree, path, Vec::new())?.as_bytes()))
        }
        FileType::RegularFile => {
            let digest = Digest::of_reader(File::from(open(tree, path, OFlags::RDONLY)?))?;
            format!("f {mode:o} {digest}")
        }
        _ => "other".to_owned(),
    };
    // What belongs to somebody else can be written to by somebody else.
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    Ok(if own { what } else { format!("{what} of {}", stat.st_uid) })
}

fn stamp(stat: &Stat) -> String {
    let Stat { st_ino, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, .. } = stat;
    format!("{st_ino} {st_mtime}.{st_mtime_nsec} {st_ctime}.{st_ctime_nsec}")
}

/// One word: what is no plain text is `%` and two digits.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => drop(write!(text, "%{byte:02x}")),
            plain => text.push(char::from(*plain)),
        }
    }
    text
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
        bytes.extend(rest.as_bytes());
    }
    bytes
}

/// For a person: `/usr/bin/sh`.
fn shown(name: &str) -> String {
    format!("/{}", name.trim_start_matches('.').trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    struct Lab(tempfile::TempDir, Digest);

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join("root").join(name);
            fs::create_dir_all(at("usr/bin")).unwrap();
            fs::create_dir(at("empty")).unwrap();
            for name in ["usr/bin/sh", "usr/bin/cat", "a b%\n"] {
                fs::write(at(name), name).unwrap();
            }
            symlink("usr/bin", at("bin")).unwrap();
            let (top, tree) =
                (atomic::open_dir(dir.path()).unwrap(), atomic::open_dir(&dir.path().join("root")).unwrap());
            let digest = list(&top, &tree).unwrap();
            Self(dir, digest)
        }

        fn at(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join("root").join(name)
        }

        fn check(&self, depth: Depth) -> Vec<String> {
            check(self.0.path(), &self.0.path().join("root"), self.1, depth).unwrap()
        }
    }

    #[test]
    fn whatever_is_changed_is_found_by_its_name() {
        for (wrong, change) in [
            (
                "/usr/bin/sh",
                &(|lab: &Lab| fs::write(lab.at("usr/bin/sh"), "other").unwrap()) as &dyn Fn(&Lab),
            ),
            ("/usr/bin/sh", &|lab| {
                // As long as before, and with the time of before.
                let before = fs::metadata(lab.at("usr/bin/sh")).unwrap().modified().unwrap();
                fs::write(lab.at("usr/bin/sh"), "usr/bin/SH").unwrap();
                File::options().write(true).open(lab.at("usr/bin/sh")).unwrap().set_modified(before).unwrap();
            }),
            ("/usr/bin/sh", &|lab| {
                fs::set_permissions(lab.at("usr/bin/sh"), PermissionsExt::from_mode(0o4755)).unwrap()
            }),
            ("/usr/bin/cat", &|lab| fs::remove_file(lab.at("usr/bin/cat")).unwrap()),
            ("/usr/bin/cat", &|lab| {
                fs::remove_file(lab.at("usr/bin/cat")).unwrap();
                symlink("sh", lab.at("usr/bin/cat")).unwrap();
            }),
            ("/bin", &|lab| {
                fs::remove_file(lab.at("bin")).unwrap();
                symlink("/tmp", lab.at("bin")).unwrap();
            }),
            ("/empty/new", &|lab| fs::write(lab.at("empty/new"), "").unwrap()),
            ("/a%20b%25%0a", &|lab| fs::write(lab.at("a b%\n"), "").unwrap()),
            ("the list of its files", &|lab| fs::write(lab.0.path().join(LIST), "d 755 .\n").unwrap()),
            ("the list of its files", &|lab| fs::remove_file(lab.0.path().join(LIST)).unwrap()),
        ] {
            let lab = Lab::new();
            assert_eq!(lab.check(Depth::Stamps), [""; 0]);
            change(&lab);
            for depth in [Depth::Stamps, Depth::Contents, Depth::Stamps] {
                assert_eq!(lab.check(depth), [wrong], "{depth:?}");
            }
        }
    }

    #[test]
    fn what_was_moved_is_read_once_and_then_known_by_its_stamps() {
        let lab = Lab::new();
        let stamps = || fs::read_to_string(lab.0.path().join(STAMPS)).unwrap();
        let before = stamps();
        // Another file with the same content, as a backup that was put back has.
        fs::copy(lab.at("usr/bin/sh"), lab.at("usr/bin/new")).unwrap();
        fs::rename(lab.at("usr/bin/new"), lab.at("usr/bin/sh")).unwrap();
        assert_eq!(lab.check(Depth::Stamps), [""; 0]);
        assert_ne!(stamps(), before);
        // Lost ones are made again.
        let known = stamps();
        fs::remove_file(lab.0.path().join(STAMPS)).unwrap();
        assert_eq!(lab.check(Depth::Stamps), [""; 0]);
        assert_eq!(stamps(), known);
    }

    #[test]
    fn only_reading_finds_what_the_file_system_does_not_know() {
        let lab = Lab::new();
        fs::write(lab.at("usr/bin/sh"), "rotten").unwrap();
        // As if it had always been so: the stamps of now.
        let tree = atomic::open_dir(&lab.at("")).unwrap();
        let now: String =
            paths(&tree).unwrap().iter().map(|path| stamp(&look(&tree, path).unwrap()) + "\n").collect();
        fs::write(lab.0.path().join(STAMPS), now).unwrap();
        assert_eq!(lab.check(Depth::Stamps), [""; 0]);
        assert_eq!(lab.check(Depth::Contents), ["/usr/bin/sh"]);
    }

    proptest! {
        #[test]
        fn every_name_is_one_word_and_itself_again(name: Vec<u8>) {
            let word = escaped(&name);
            prop_assert!(word.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(unescaped(&word), name);
        }

        #[test]
        fn no_list_makes_it_panic(text in ".{0,300}") {
            let _ = text.lines().map(unescaped).count();
        }
    }
}
