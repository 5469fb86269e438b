//! The watcher: an event for whatever touches a published file, within a second, and nothing else.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use clawkeep_guards::{Published, Publisher, Watcher};
use rustix::process::{getegid, geteuid};
use tokio::time::timeout;

const ENV: &str = "nemoclaw-proxy-env.sh";
const GUARD: &str = "nemoclaw-guard.js";
const SECOND: Duration = Duration::from_secs(1);

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

struct World {
    dir: tempfile::TempDir,
    publisher: Publisher,
    watcher: Watcher,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(open(dir.path()), geteuid().as_raw(), getegid().as_raw()).unwrap();
        let watcher = Watcher::new(open(dir.path()), [ENV.to_owned(), GUARD.to_owned()]).unwrap();
        Self { dir, publisher, watcher }
    }

    /// Reads events until a look finds everything intact and nothing more is told.
    async fn settle(&mut self) {
        self.publisher.publish(ENV, b"env").unwrap();
        self.publisher.publish(GUARD, b"guard").unwrap();
        while timeout(Duration::from_millis(100), self.watcher.changed()).await.is_ok() {}
    }
}

#[tokio::test]
async fn every_way_to_touch_a_file_is_told_within_a_second_and_heals_to_silence() {
    type Touch = (&'static str, Published, fn(&Path));
    let touches: [Touch; 10] = [
        ("unlink", Published::Missing, |d| fs::remove_file(d.join(ENV)).unwrap()),
        ("replace", Published::WrongMode, |d| {
            fs::write(d.join("x"), "env").unwrap();
            chmod(&d.join("x"), 0o666);
            fs::rename(d.join("x"), d.join(ENV)).unwrap();
        }),
        ("chmod", Published::WrongMode, |d| chmod(&d.join(ENV), 0o666)),
        ("write", Published::WrongMode, |d| {
            chmod(&d.join(ENV), 0o666);
            fs::write(d.join(ENV), "hostile").unwrap();
        }),
        ("move away", Published::Missing, |d| fs::rename(d.join(ENV), d.join("y")).unwrap()),
        ("symlink", Published::Symlink, |d| {
            fs::remove_file(d.join(ENV)).unwrap();
            symlink("/etc/hostname", d.join(ENV)).unwrap();
        }),
        ("directory", Published::Directory, |d| {
            fs::remove_file(d.join(ENV)).unwrap();
            fs::create_dir(d.join(ENV)).unwrap();
        }),
        ("link", Published::HardLink, |d| fs::hard_link(d.join(ENV), d.join("z")).unwrap()),
        ("utime", Published::Intact, |d| {
            File::open(d.join(ENV)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("unreadable", Published::WrongMode, |d| chmod(&d.join(ENV), 0)),
    ];
    let mut world = World::new();
    for (what, found, touch) in touches {
        world.settle().await;
        touch(world.dir.path());
        let told = timeout(SECOND, world.watcher.changed()).await.expect(what).unwrap();
        assert_eq!(told, [ENV], "{what}");
        assert_eq!(world.publisher.publish(ENV, b"env").unwrap(), found, "{what}");
        // Its own repair is told at most once more, and then there is silence.
        while let Ok(told) = timeout(Duration::from_millis(100), world.watcher.changed()).await {
            assert_eq!(told.unwrap(), [ENV], "{what}");
            assert_eq!(world.publisher.publish(ENV, b"env").unwrap(), Published::Intact, "{what}");
        }
    }
}

#[tokio::test]
async fn a_write_through_a_link_in_another_directory_is_told() {
    let mut world = World::new();
    let other = tempfile::tempdir_in(world.dir.path().parent().unwrap()).unwrap();
    world.settle().await;
    let link = other.path().join("link");
    fs::hard_link(world.dir.path().join(GUARD), &link).unwrap();
    assert_eq!(timeout(SECOND, world.watcher.changed()).await.unwrap().unwrap(), [GUARD]);
    chmod(&link, 0o600);
    assert_eq!(timeout(SECOND, world.watcher.changed()).await.unwrap().unwrap(), [GUARD]);
    File::options().append(true).open(&link).unwrap().write_all(b"hostile").unwrap();
    assert_eq!(timeout(SECOND, world.watcher.changed()).await.unwrap().unwrap(), [GUARD]);
    // Once replaced, the old file is nobody's business.
    assert_eq!(world.publisher.publish(GUARD, b"guard").unwrap(), Published::HardLink);
    world.settle().await;
    File::options().append(true).open(&link).unwrap().write_all(b"more").unwrap();
    assert!(timeout(Duration::from_millis(200), world.watcher.changed()).await.is_err());
}

#[tokio::test]
async fn a_flood_of_other_names_wakes_nobody_and_hides_nothing() {
    let mut world = World::new();
    world.settle().await;
    let dir = world.dir.path().to_owned();
    let flood = tokio::task::spawn_blocking(move || {
        for n in 0..30_000 {
            let path = dir.join(format!("f{}", n % 100));
            File::create(&path).unwrap();
            fs::remove_file(&path).unwrap();
        }
        fs::remove_file(dir.join(GUARD)).unwrap();
    });
    // More than the kernel keeps, so all names may be told; the one that was removed is among them in the end.
    // How long the flood takes is the disk's affair.
    let mut wakes = 0;
    while world.publisher.inspect(GUARD, geteuid().as_raw()) != clawkeep_plan::Fact::Missing {
        let told = timeout(300 * SECOND, world.watcher.changed()).await.unwrap().unwrap();
        assert!(told.iter().all(|name| name == ENV || name == GUARD), "{told:?}");
        wakes += 1;
    }
    flood.await.unwrap();
    loop {
        match timeout(SECOND, world.watcher.changed()).await {
            Ok(told) if told.as_ref().unwrap().iter().any(|name| name == GUARD) => break,
            Ok(_) => wakes += 1,
            // Told already, together with the look that saw it missing.
            Err(_) => break,
        }
    }
    assert!(wakes < 500, "{wakes} wake-ups");
    assert_eq!(world.publisher.publish(GUARD, b"guard").unwrap(), Published::Missing);
}

#[tokio::test]
async fn when_more_happened_than_the_kernel_keeps_all_names_are_told() {
    let mut world = World::new();
    world.settle().await;
    let kept: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Nobody reads meanwhile. Each round is three events or more; the last one that counts is lost.
    for _ in 0..=kept / 3 {
        File::create(world.dir.path().join("f")).unwrap();
        fs::remove_file(world.dir.path().join("f")).unwrap();
    }
    fs::remove_file(world.dir.path().join(GUARD)).unwrap();
    let mut told = Vec::new();
    while let Ok(more) = timeout(Duration::from_millis(200), world.watcher.changed()).await {
        told.extend(more.unwrap());
    }
    told.sort();
    told.dedup();
    assert_eq!(told, [GUARD, ENV]);
}

#[tokio::test]
async fn names_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Watcher::new(open(dir.path()), ["../x".to_owned()]).is_err());
    let file = dir.path().join("f");
    fs::write(&file, "").unwrap();
    assert!(Watcher::new(open(&file), [ENV.to_owned()]).is_err(), "not a directory");
}
