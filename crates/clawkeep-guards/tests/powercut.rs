//! The power goes, or a system call fails, between any two effects of installing the guards: what stands under
//! the set's name is the whole set or nothing, and the next installation makes it good.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use clawkeep_guards::{Package, all};
use clawkeep_plan::Fact;
use testkit::Seed;
use testkit::powercut::{Fault, Loss, Trace, can_trace, leave_the_harness_behind, scratch};

/// Where the child installs, and that this process is one.
const CHILD: &str = "CLAWKEEP_TEST_POWERCUT";

/// Not a test by itself: installs, damages a guard, installs again over it.
#[test]
fn child_that_installs() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    leave_the_harness_behind();
    let root = Path::new(&root);
    // One that failed is tried again at the next launch.
    let install = || (0..5).find_map(|_| Package::install(root).ok()).expect("installs at last");
    let package = install();
    say_done();
    let guard = package.path().join(all()[0].file_name());
    let _ = std::fs::remove_file(&guard);
    let _ = std::fs::write(&guard, "altered");
    install();
    say_done();
}

fn say_done() {
    use std::io::Write;
    let mut out = std::io::stdout();
    out.write_all(b"\ndone\n").and_then(|()| out.flush()).unwrap();
}

fn child(root: &Path) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child_that_installs", "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, root);
    child
}

/// What a launch finds and does. `installed` is what must be there already.
fn verify(root: &Path, installed: Option<&OsStr>, what: &str) {
    let whole = |package: &Package| {
        all().iter().all(|guard| package.inspect(guard.name) == Fact::Bytes(guard.digest()))
    };
    if let Some(name) = installed {
        let found = Package::open(&root.join(name)).ok();
        assert!(found.is_some_and(|package| whole(&package)), "{what}: an installed set is gone");
    }
    let package = Package::install(root).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(whole(&package), "{what}: not whole after an installation");
    let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(".tmp-")).collect();
    // What a crash left goes with the next installation that writes; with a whole set none does.
    assert!(left.len() <= 2, "{what}: {left:?}");
}

#[test]
fn the_guards_survive_a_power_cut_a_kill_and_an_error_anywhere() {
    if !can_trace() {
        eprintln!("SKIPPED: strace(1) is missing or may not trace");
        return;
    }
    let mut rng = Seed::from_env_or_random().rng();
    let dir = || {
        let temp = tempfile::tempdir_in(scratch()).unwrap();
        let root = temp.path().join("guards");
        std::fs::create_dir(&root).unwrap();
        (temp, root)
    };
    let (_temp, root) = dir();
    let trace = Trace::record(&root, &child(&root));
    assert_eq!(trace.done_at(trace.cuts()), 2);
    let name = Package::install(&root).unwrap().path().file_name().unwrap().to_owned();
    let mut states = std::collections::BTreeSet::new();
    for cut in 0..trace.cuts() + 1 {
        for loss in Loss::ALL {
            let disk = trace.disk(cut, loss, &mut rng);
            let done = trace.done_at(cut);
            if states.insert((done, disk.fingerprint())) {
                let (_temp, root) = dir();
                disk.write_to(&root);
                // Between the two the child alters a guard itself.
                let installed = done == 2 || (done == 1 && trace.done_at(cut - 1) == 0);
                verify(
                    &root,
                    installed.then_some(&name),
                    &format!("power cut after effect {cut}, loss {loss:?}"),
                );
            }
        }
    }
    assert!(states.len() > 50, "strace(1) told too little: {} states", states.len());
    for point in trace.points() {
        for fault in [Fault::Kill, Fault::Error(rng.pick::<&str>(&["ENOSPC", "EIO"]))] {
            let (temp, root) = dir();
            let status = point.inject(fault, &child(&root), &temp.path().join("said"));
            let what = format!("{fault:?} at {point:?}");
            assert!(status.success() || fault == Fault::Kill, "{what}: {status}");
            verify(&root, status.success().then_some(&name), &what);
        }
    }
}
