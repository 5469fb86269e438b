//! Publishing into a directory that hostile processes write to.

mod support;

use std::fs::{self, File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use clawkeep_guards::{MAX_FILE_BYTES, PublishError, Published, Publisher};
use clawkeep_plan::{Digest, Fact};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{getegid, geteuid};
use support::{names, root_or_skip};

const NAME: &str = "nemoclaw-proxy-env.sh";
const RIGHT: &[u8] = b"export A=b\n";
const HOSTILE: &str = "touch /executed\n";

/// A sandbox's `/tmp`, and beside it a file of the host that must never change.
struct Tmp {
    root: tempfile::TempDir,
    publisher: Publisher,
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn me() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}

impl Tmp {
    fn of(uid: u32, gid: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        let tmp = root.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        chmod(&tmp, 0o1777);
        fs::write(root.path().join("host"), "of the host").unwrap();
        Self { publisher: Publisher::new(open(&tmp), uid, gid).unwrap(), root }
    }

    fn new() -> Self {
        Self::of(me().0, me().1)
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    fn file(&self) -> PathBuf {
        self.dir().join(NAME)
    }

    fn host(&self) -> PathBuf {
        self.root.path().join("host")
    }

    fn publish(&self) -> Published {
        self.publisher.publish(NAME, RIGHT).unwrap()
    }

    #[track_caller]
    fn assert_right(&self) {
        assert_eq!(self.publisher.inspect(NAME, me().0), Fact::Bytes(Digest::of(RIGHT)));
        let stat = fs::symlink_metadata(self.file()).unwrap();
        assert!(stat.is_file());
        assert_eq!((stat.mode() & 0o7777, stat.nlink()), (0o444, 1));
        assert_eq!(fs::read(self.file()).unwrap(), RIGHT);
        assert_eq!(fs::read_to_string(self.host()).unwrap(), "of the host");
        assert_eq!(fs::metadata(self.host()).unwrap().mode() & 0o777, 0o644);
        assert!(
            names(&self.dir()).iter().all(|name| !name.starts_with(".clawkeep-")),
            "{:?}",
            names(&self.dir())
        );
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

#[test]
fn what_is_missing_comes_and_what_is_intact_is_not_written() {
    let tmp = Tmp::new();
    assert_eq!(tmp.publisher.inspect(NAME, me().0), Fact::Missing);
    assert_eq!(tmp.publish(), Published::Missing);
    tmp.assert_right();
    let before = fs::metadata(tmp.file()).unwrap();
    assert_eq!(tmp.publish(), Published::Intact);
    let after = fs::metadata(tmp.file()).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    assert_eq!(names(&tmp.dir()), [NAME]);
    // A newer plan's bytes replace it.
    assert_eq!(tmp.publisher.publish(NAME, b"new").unwrap(), Published::Altered);
    assert_eq!(fs::read(tmp.file()).unwrap(), b"new");
}

#[test]
fn whatever_stands_in_the_way_is_named_and_replaced() {
    type Trick = (Published, fn(&Tmp), &'static str);
    let tricks: [Trick; 10] = [
        (Published::Symlink, |t| symlink(t.host(), t.file()).unwrap(), "symbolic link"),
        (Published::Symlink, |t| symlink("/nowhere", t.file()).unwrap(), "symbolic link"),
        (Published::Symlink, |t| symlink(NAME, t.file()).unwrap(), "symbolic link"),
        (Published::HardLink, |t| fs::hard_link(t.host(), t.file()).unwrap(), "has mode"),
        (Published::Special, |t| fifo(&t.file()), "named pipe"),
        (Published::Special, |t| drop(UnixListener::bind(t.file()).unwrap()), "socket"),
        (
            Published::WrongMode,
            |t| {
                fs::write(t.file(), HOSTILE).unwrap();
                chmod(&t.file(), 0o666);
            },
            "has mode 0666",
        ),
        (
            Published::WrongMode,
            |t| {
                fs::write(t.file(), RIGHT).unwrap();
                chmod(&t.file(), 0o4444);
            },
            "has mode 4444",
        ),
        (
            Published::Altered,
            |t| {
                fs::write(t.file(), HOSTILE).unwrap();
                chmod(&t.file(), 0o444);
            },
            "Bytes",
        ),
        (
            Published::Altered,
            |t| {
                File::create(t.file()).unwrap().set_len(1 << 40).unwrap();
                chmod(&t.file(), 0o444);
            },
            "larger",
        ),
    ];
    for (what, trick, says) in tricks {
        let tmp = Tmp::new();
        trick(&tmp);
        let fact = format!("{:?}", tmp.publisher.inspect(NAME, me().0));
        assert!(fact.contains(says), "{what:?}: {fact}");
        assert_eq!(tmp.publish(), what);
        tmp.assert_right();
        assert_eq!(names(&tmp.dir()), [NAME], "{what:?}");
        assert_eq!(tmp.publish(), Published::Intact);
    }
}

#[test]
fn a_directory_is_moved_aside_with_all_that_is_in_it() {
    let tmp = Tmp::new();
    fs::create_dir_all(tmp.file().join("deep")).unwrap();
    fs::write(tmp.file().join("deep/work"), "of the agent").unwrap();
    chmod(&tmp.file(), 0o555);
    assert_eq!(tmp.publish(), Published::Directory);
    tmp.assert_right();
    let all = names(&tmp.dir());
    let aside = all.iter().find(|name| name.starts_with("nemoclaw-proxy-env.sh.displaced-")).unwrap();
    assert_eq!(fs::read_to_string(tmp.dir().join(aside).join("deep/work")).unwrap(), "of the agent");
    chmod(&tmp.dir().join(aside), 0o755);
    assert_eq!(all.len(), 2);
    // An empty one as well.
    fs::remove_file(tmp.file()).unwrap();
    fs::create_dir(tmp.file()).unwrap();
    assert_eq!(tmp.publish(), Published::Directory);
    tmp.assert_right();
}

#[test]
fn a_link_to_the_published_file_cannot_change_it_for_long() {
    let tmp = Tmp::new();
    tmp.publish();
    let link = tmp.dir().join("link");
    fs::hard_link(tmp.file(), &link).unwrap();
    chmod(&link, 0o600);
    fs::write(&link, HOSTILE).unwrap();
    assert_eq!(tmp.publish(), Published::HardLink);
    tmp.assert_right();
    assert_eq!(fs::read_to_string(&link).unwrap(), HOSTILE, "the other name is not ours to touch");
}

#[test]
fn owners_are_set_and_checked() {
    if !root_or_skip("owners_are_set_and_checked") {
        return;
    }
    let tmp = Tmp::of(100_000, 100_001);
    assert_eq!(tmp.publish(), Published::Missing);
    let stat = fs::metadata(tmp.file()).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (100_000, 100_001, 0o444));
    assert_eq!(tmp.publisher.inspect(NAME, 100_000), Fact::Bytes(Digest::of(RIGHT)));
    assert_eq!(tmp.publisher.inspect(NAME, 0), Fact::Unfit("belongs to uid 100000, not 0".to_owned()));
    for (uid, gid) in [(100_998, 100_001), (100_000, 100_998), (0, 0)] {
        chown(tmp.file(), Some(uid), Some(gid)).unwrap();
        assert_eq!(tmp.publish(), Published::WrongOwner);
        assert_eq!(tmp.publish(), Published::Intact);
    }
    // A device, which only root can make.
    fs::remove_file(tmp.file()).unwrap();
    if mknodat(CWD, tmp.file(), FileType::CharacterDevice, Mode::RWXU, rustix::fs::makedev(1, 5)).is_ok() {
        assert_eq!(tmp.publish(), Published::Special);
    }
    assert_eq!(tmp.publisher.inspect(NAME, 100_000), Fact::Bytes(Digest::of(RIGHT)));
}

#[test]
fn names_sizes_and_directories_are_checked_first() {
    let tmp = Tmp::new();
    for bad in ["", ".", "..", "a/b", "/etc/passwd", "../host", "a\0b", "a b"] {
        assert!(matches!(tmp.publisher.publish(bad, RIGHT), Err(PublishError::Name(_))), "{bad:?}");
        assert!(matches!(tmp.publisher.inspect(bad, 0), Fact::Unfit(_)), "{bad:?}");
    }
    let huge = vec![0; MAX_FILE_BYTES + 1];
    assert!(matches!(tmp.publisher.publish(NAME, &huge), Err(PublishError::TooLarge(_))));
    assert_eq!(names(&tmp.dir()), Vec::<String>::new());

    let refuse = |path: &Path| Publisher::new(open(path), 0, 0).unwrap_err().to_string();
    assert!(refuse(&tmp.host()).contains("no directory"));
    chmod(&tmp.dir(), 0o777);
    assert!(refuse(&tmp.dir()).contains("not sticky"));
    chmod(&tmp.dir(), 0o755);
    assert!(Publisher::new(open(&tmp.dir()), 0, 0).is_ok());
}

/// Numbers that repeat from run to run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// One thing that a process in the sandbox may do to a name. It may fail: others are at work.
fn tamper(dice: &mut Dice, dir: &Path, host: &Path) {
    let file = dir.join(NAME);
    let clear = |path: &Path| {
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir(path);
    };
    match dice.roll(12) {
        0 => clear(&file),
        1 => {
            clear(&file);
            let _ = symlink(host, &file);
        }
        2 => {
            clear(&file);
            let _ = fs::create_dir(&file);
        }
        3 => {
            clear(&file);
            let _ = fs::hard_link(host, &file);
        }
        4 => {
            clear(&file);
            let _ = mknodat(CWD, &file, FileType::Fifo, Mode::RWXU, 0);
        }
        5 => {
            // A new file, never through what stands there: the target of a link would be the host's.
            let new = dir.join("new");
            let _ = fs::write(&new, HOSTILE);
            let _ = fs::rename(&new, &file);
        }
        6 => {
            let _ = fs::create_dir(dir.join("d"));
            let _ = fs::write(dir.join("d/x"), "x");
            clear(&file);
            let _ = fs::rename(dir.join("d"), &file);
        }
        7 => {
            let _ = fs::rename(&file, dir.join("stolen"));
        }
        8 => {
            let _ = fs::hard_link(&file, dir.join(format!("link-{}", dice.roll(1000))));
        }
        // Lays hands on the temporary file too, as an agent with our own uid can.
        9 | 10 => {
            for name in names(dir).into_iter().filter(|name| name.starts_with(".clawkeep-")) {
                let _ = match dice.roll(3) {
                    0 => fs::remove_file(dir.join(name)),
                    1 => fs::hard_link(dir.join(name), &file),
                    _ => fs::rename(dir.join(name), dir.join("stolen")),
                };
            }
        }
        _ => {}
    }
}

#[test]
fn a_thousand_rounds_of_tampering_are_healed() {
    let tmp = Tmp::new();
    let mut dice = Dice(1);
    for round in 0..1000 {
        for _ in 0..=dice.roll(3) {
            tamper(&mut dice, &tmp.dir(), &tmp.host());
        }
        let found = tmp.publish();
        assert_eq!(tmp.publish(), Published::Intact, "round {round}: found {found:?}");
        tmp.assert_right();
    }
}

#[test]
fn tampering_at_the_same_time_breaks_nothing_and_ends_healed() {
    let tmp = Tmp::new();
    let stop = AtomicBool::new(false);
    let (mut healed, mut failed) = (0, 0);
    std::thread::scope(|scope| {
        for seed in 2..4 {
            let (dir, host, stop) = (tmp.dir(), tmp.host(), &stop);
            scope.spawn(move || {
                let mut dice = Dice(seed);
                while !stop.load(Ordering::Relaxed) {
                    tamper(&mut dice, &dir, &host);
                }
            });
        }
        for _ in 0..3000 {
            match tmp.publisher.publish(NAME, RIGHT) {
                Ok(Published::Intact) => {}
                Ok(_) => healed += 1,
                // Its temporary file was stolen, or it lost every race. The next event publishes again.
                Err(PublishError::Io { .. } | PublishError::Contended(_)) => failed += 1,
                Err(other) => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(healed > 0, "healed {healed}, failed {failed}");
    tmp.publish();
    assert_eq!(tmp.publish(), Published::Intact);
    tmp.assert_right();
}

/// The link to the gateway's log, which an agent that owns the directory can replace.
#[test]
fn a_link_is_put_back_whatever_stands_in_its_place() {
    let tmp = Tmp::new();
    let (link, target) = (tmp.dir().join("gateway.log"), Path::new("/run/gateway.log"));
    let publish = || tmp.publisher.publish_link("gateway.log", target).unwrap();
    let gone = || fs::remove_file(&link).unwrap();
    assert_eq!(publish(), Published::Missing);
    assert_eq!(publish(), Published::Intact);
    gone();
    symlink(tmp.host(), &link).unwrap();
    assert_eq!(publish(), Published::Symlink);
    gone();
    fs::write(&link, "forged").unwrap();
    assert_eq!(publish(), Published::Altered);
    gone();
    fifo(&link);
    assert_eq!(publish(), Published::Special);
    gone();
    fs::create_dir(&link).unwrap();
    fs::write(link.join("kept"), "x").unwrap();
    assert_eq!(publish(), Published::Directory);
    assert_eq!(fs::read_link(&link).unwrap(), target);
    let mut left = names(&tmp.dir());
    left.retain(|name| !name.starts_with("gateway.log.displaced-"));
    assert_eq!(left, ["gateway.log"]);
    assert_eq!(fs::read_to_string(tmp.host()).unwrap(), "of the host");
    for name in ["", "..", "a/b"] {
        assert!(matches!(tmp.publisher.publish_link(name, target), Err(PublishError::Name(_))), "{name}");
    }
}
