//! The level that a process reads back, held against what the host side finds by itself.

mod support;

use clawkeep_isolation::{IdMap, MountAccess, read_only};
use clawkeep_plan::Restriction;
use support::Sandbox;
use testkit::{Outcome, Reexec};

#[test]
fn a_level_falls_short_of_nothing_and_of_everything_else_by_name() {
    let mut sandbox = Sandbox::new();
    let level = sandbox.gateway_level();
    let expected = sandbox.expected();
    assert_eq!(level.shortfalls(&expected), Vec::<String>::new());
    assert_eq!(level.landlock.status, Restriction::Full);
    assert_eq!(level.mounts, expected.mounts, "the same table from inside and from outside");

    // The same process, if it had been ordered otherwise.
    let home = sandbox.spec.mounts.iter_mut().find(|mount| mount.target == "/sandbox").unwrap();
    home.access = MountAccess::ReadOnly;
    sandbox.spec.mounts.push(read_only("/nowhere", "/opt/more"));
    sandbox.spec.mounts.retain(|mount| mount.target != "/usr");
    sandbox.spec.ids = IdMap::Range { base: 7_000_000 };
    let found = level.shortfalls(&sandbox.expected()).join("; ");
    for named in [
        "/usr (",
        "was not asked for",
        "/sandbox is not ro",
        "/opt/more is not mounted",
        "another map of uids",
    ] {
        assert!(found.contains(named), "{named} in {found}");
    }
}

#[test]
fn an_ordinary_users_level_falls_short_of_nothing_either() {
    let test = Reexec::of("an_ordinary_users_level_falls_short_of_nothing_either").user(12_345);
    if test.run() != Outcome::Inside {
        return;
    }
    let mut sandbox = Sandbox::new();
    let level = sandbox.gateway_level();
    assert_eq!(level.shortfalls(&sandbox.expected()), Vec::<String>::new());
    assert_eq!((level.ids.uid_map[0].inside, level.ids.uid_map[0].outside), (998, 12_345));
}

#[test]
fn a_plan_that_needs_more_landlock_than_there_is_starts_nothing() {
    let mut sandbox = Sandbox::new();
    let abi = clawkeep_isolation::landlock_abi();
    let failed = sandbox.spawn_under_landlock(abi + 1).unwrap_err();
    assert_eq!(
        failed,
        format!("prepare Landlock: the kernel has Landlock ABI {abi}, the plan needs {}", abi + 1)
    );
    assert_eq!(sandbox.spawn_under_landlock(abi), Ok(()));
}
