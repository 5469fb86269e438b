//! The groups of an ordinary user stay with what runs in the user's sandboxes: without privilege nobody can drop them
//! (user_namespaces(7)). They open nothing of the host's there, in either tier.

mod support;

use std::os::unix::fs::MetadataExt;

use clawkeep_isolation::proto::Ended;
use support::Sandbox;
use testkit::{Outcome, Reexec};

/// A file that a group may read, and nobody else but root: it is on every host.
const SHADOW: &str = "/etc/shadow";

/// Every file that can be seen and that is opened by a group alone.
const LOOK: &str = r#"
import os, stat, sys
found = []
for top in sys.argv[1:]:
    for above, directories, files in os.walk(top):
        directories[:] = [d for d in directories if os.path.join(above, d) != "/proc"]
        for path in (os.path.join(above, name) for name in files):
            try:
                seen = os.lstat(path)
                if stat.S_ISLNK(seen.st_mode) or seen.st_uid == os.getuid() or seen.st_gid == os.getgid() or seen.st_mode & 0o004:
                    continue
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                found.append(path)
            except OSError:
                pass
print(len(os.getgroups()), found)
"#;

/// Runs the test once more as a user who is in the group that may read the password hashes; whether this is that run.
fn inside(test: &str) -> bool {
    let Ok(shadow) = std::fs::metadata(SHADOW) else {
        eprintln!("SKIPPED: {test} needs {SHADOW}");
        return false;
    };
    if shadow.mode() & 0o044 != 0o040 || shadow.gid() == 0 || !support::has_python(test) {
        eprintln!("SKIPPED: {test} needs a group that may read {SHADOW}, and Python");
        return false;
    }
    if Reexec::of(test).user(12_345).group(shadow.gid()).run() != Outcome::Inside {
        return false;
    }
    assert!(std::fs::File::open(SHADOW).is_ok(), "on the host the group opens it");
    true
}

#[test]
fn what_a_group_of_the_users_opens_is_not_in_the_sandbox() {
    if !inside("what_a_group_of_the_users_opens_is_not_in_the_sandbox") {
        return;
    }
    let mut sandbox = Sandbox::new();
    let level = sandbox.gateway_level();
    // It is told, and no shortfall: nobody could do better.
    assert_eq!(level.ids.groups.len(), 1);
    assert_eq!(level.shortfalls(&sandbox.expected()), Vec::<String>::new());
    let seen = sandbox.run(&["/usr/bin/python3", "-c", LOOK, "/"]);
    assert_eq!(seen, ("1 []\n".to_owned(), Ended::Exited(0)));
    assert_ne!(sandbox.sh("cat /etc/shadow").1, Ended::Exited(0));
}

#[test]
fn in_the_lower_tier_landlock_is_before_every_group() {
    let test = "in_the_lower_tier_landlock_is_before_every_group";
    if clawkeep_isolation::landlock_abi() < 6 {
        eprintln!("SKIPPED: {test} needs Landlock ABI 6");
        return;
    }
    if !inside(test) {
        return;
    }
    let mut sandbox = Sandbox::beside(vec![]);
    let tops = ["/etc", "/usr", "/var", "/run", "/dev"];
    let seen = sandbox.run(&[&["/usr/bin/python3", "-c", LOOK][..], &tops].concat());
    assert_eq!(seen, ("1 []\n".to_owned(), Ended::Exited(0)));
    let (said, how) = sandbox.sh("exec 2>&1; cat /etc/shadow");
    assert!(how != Ended::Exited(0) && said.contains("Permission denied"), "{said}");
}
