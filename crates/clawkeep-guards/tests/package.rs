//! Installing the guards on the host: idempotent, repaired when altered, safe with others at work.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use clawkeep_guards::{Package, all};
use clawkeep_plan::{Digest, Fact};
use support::{names, root_or_skip};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_intact(package: &Package) {
    for guard in all() {
        assert_eq!(package.inspect(guard.name), Fact::Bytes(guard.digest()), "{}", guard.name);
    }
}

/// Names of what was moved aside.
fn displaced(root: &Path) -> Vec<PathBuf> {
    names(root).into_iter().filter(|name| name.contains(".displaced-")).map(|name| root.join(name)).collect()
}

/// A temporary directory whose read-only directories can be removed by an ordinary user too.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("guards")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::set_permissions(entry.path(), Permissions::from_mode(0o700));
            }
        }
    }
}

#[test]
fn the_whole_set_is_installed_read_only_and_once() {
    let root = Root::new();
    let package = Package::install(&root.path()).unwrap();
    assert_intact(&package);
    assert_eq!(package.path().parent(), Some(root.path().as_path()));
    assert!(package.path().file_name().unwrap().to_str().unwrap().parse::<Digest>().is_ok());
    assert_eq!(mode(package.path()), 0o555);
    let mut want: Vec<_> = all().iter().map(|guard| guard.file_name()).collect();
    want.sort();
    assert_eq!(names(package.path()), want);
    for guard in all() {
        assert_eq!(mode(&package.path().join(guard.file_name())), 0o444);
    }

    let before = fs::metadata(package.path()).unwrap().ino();
    let again = Package::install(&root.path()).unwrap();
    assert_eq!(fs::metadata(again.path()).unwrap().ino(), before);
    assert_eq!(names(&root.path()).len(), 1);
    assert_intact(&Package::open(package.path()).unwrap());
}

#[test]
fn whatever_is_wrong_is_found_and_repaired_and_what_stood_there_is_kept() {
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 9] = [
        ("missing", |f| fs::remove_file(f).unwrap(), "Missing"),
        (
            "altered",
            |f| {
                chmod(f, 0o600);
                fs::write(f, "x").unwrap();
                chmod(f, 0o444);
            },
            "Bytes",
        ),
        (
            "appended",
            |f| {
                let b = [fs::read(f).unwrap(), vec![b'\n']].concat();
                chmod(f, 0o600);
                fs::write(f, b).unwrap();
                chmod(f, 0o444);
            },
            "Bytes",
        ),
        ("writable", |f| chmod(f, 0o644), "has mode 0644, not 0444"),
        ("set-id", |f| chmod(f, 0o4444), "has mode 4444"),
        ("linked", |f| fs::hard_link(f, f.with_file_name("other")).unwrap(), "another name"),
        (
            "symlink",
            |f| {
                fs::rename(f, f.with_file_name("real")).unwrap();
                symlink("real", f).unwrap();
            },
            "symbolic link",
        ),
        (
            "directory",
            |f| {
                fs::remove_file(f).unwrap();
                fs::create_dir(f).unwrap();
            },
            "a directory",
        ),
        (
            "huge",
            |f| {
                chmod(f, 0o600);
                fs::File::options().write(true).open(f).unwrap().set_len(1 << 40).unwrap();
                chmod(f, 0o444);
            },
            "larger than",
        ),
    ];
    for (what, damage, says) in damages {
        let root = Root::new();
        let package = Package::install(&root.path()).unwrap();
        let guard = &all()[1];
        let file = package.path().join(guard.file_name());
        chmod(package.path(), 0o755);
        damage(&file);
        chmod(package.path(), 0o555);
        let found = package.inspect(guard.name);
        assert_ne!(found, Fact::Bytes(guard.digest()), "{what}");
        assert!(format!("{found:?}").contains(says), "{what}: {found:?}");

        let repaired = Package::install(&root.path()).unwrap();
        assert_intact(&repaired);
        assert_eq!(repaired.path(), package.path());
        assert_eq!(displaced(&root.path()).len(), 1, "{what}");
        assert_eq!(
            package.inspect(guard.name),
            Fact::Unfit("its directory was replaced".to_owned()),
            "{what}"
        );
    }
}

#[test]
fn a_directory_that_is_not_ours_alone_counts_for_nothing() {
    let root = Root::new();
    let package = Package::install(&root.path()).unwrap();
    chmod(package.path(), 0o777);
    let found = package.inspect(all()[0].name);
    assert_eq!(found, Fact::Unfit("its directory has mode 0777, not 0555".to_owned()));
    assert_intact(&Package::install(&root.path()).unwrap());
    assert!(matches!(package.inspect("../x"), Fact::Unfit(_)));
}

#[test]
fn a_symlink_or_a_file_in_place_of_the_package_is_moved_aside() {
    let root = Root::new();
    let path = Package::install(&root.path()).unwrap().path().to_owned();
    fs::rename(&path, root.path().join("elsewhere")).unwrap();
    symlink("elsewhere", &path).unwrap();
    assert!(Package::open(&path).is_err());
    assert_intact(&Package::install(&root.path()).unwrap());
    assert!(fs::symlink_metadata(&displaced(&root.path())[0]).unwrap().is_symlink());

    fs::rename(&path, root.path().join("gone")).unwrap();
    fs::write(&path, "a file").unwrap();
    assert_intact(&Package::install(&root.path()).unwrap());
    assert_eq!(displaced(&root.path()).len(), 2);
}

#[test]
fn what_an_installer_that_died_left_is_cleared() {
    let root = Root::new();
    let left = root.path().join(".tmp-0123");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("a.js"), "half").unwrap();
    chmod(&left, 0o555);
    symlink("/", root.path().join(".tmp-link")).unwrap();
    assert_intact(&Package::install(&root.path()).unwrap());
    assert_eq!(names(&root.path()).iter().filter(|name| *name == ".tmp-0123").count(), 0);
    assert!(Path::new("/proc").exists(), "the link was not followed");
}

#[test]
fn concurrent_installers_agree() {
    let root = Root::new();
    for round in 0..5 {
        std::thread::scope(|scope| {
            let installers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Package::install(&root.path()).unwrap())).collect();
            for installer in installers {
                assert_intact(&installer.join().unwrap());
            }
        });
        assert_eq!(displaced(&root.path()).len(), round, "one repair a round");
        let package = Package::install(&root.path()).unwrap();
        chmod(package.path(), 0o755);
        fs::remove_file(package.path().join(all()[round % 4].file_name())).unwrap();
    }
}

#[test]
fn an_unusable_root_is_an_error_that_names_it() {
    let root = Root::new();
    fs::write(root.path(), "a file").unwrap();
    let error = Package::install(&root.path()).unwrap_err().to_string();
    assert!(error.contains(root.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_foreign_owner_is_found() {
    if !root_or_skip("a_foreign_owner_is_found") {
        return;
    }
    let root = Root::new();
    let package = Package::install(&root.path()).unwrap();
    let file = package.path().join(all()[0].file_name());
    std::os::unix::fs::chown(&file, Some(998), None).unwrap();
    assert_eq!(package.inspect(all()[0].name), Fact::Unfit("belongs to uid 998, not 0".to_owned()));
    assert_intact(&Package::install(&root.path()).unwrap());
}
