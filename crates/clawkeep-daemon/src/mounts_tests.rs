use std::os::unix::fs::{chown, symlink};

use super::*;

fn mount(source: impl AsRef<Path>, target: &str, writable: bool) -> HostMount {
    HostMount { source: source.as_ref().to_owned(), target: target.to_owned(), writable }
}

fn refused(wanted: &[HostMount], state: &Path) -> String {
    let ids = IdMap::Range { base: 1_900_000_000 };
    let failure = resolve(wanted, state, &System::of_this_host(), ids).unwrap_err();
    assert_eq!((failure.code.as_str(), failure.next.as_deref()), ("bad-mount", Some(HELP)));
    failure.message
}

#[test]
fn what_leads_out_of_the_sandbox_is_refused_with_the_reason() {
    let lab = tempfile::tempdir().unwrap();
    // Where the temporary directory is behind a link, its real name.
    let dir = lab.path().canonicalize().unwrap();
    let state = dir.join("state");
    for name in ["state/sandboxes", "data", "home/.docker/run"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    symlink("data", dir.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("home/.docker/run/docker.sock")).unwrap();
    let at = |name: &str| dir.join(name);
    for (source, why) in [
        ("/".into(), "the whole host"),
        ("/proc/sys".into(), "/proc leads out"),
        ("/run".into(), "/run leads out"),
        ("/dev/null".into(), "/dev leads out"),
        (at("missing"), "No such file"),
        (at("link"), "it is a link to"),
        (at("state"), "clawkeep's own state"),
        (at("state/sandboxes"), "clawkeep's own state"),
        (dir.clone(), "clawkeep's own state"),
        (at("home"), "docker.sock in it leads out"),
        (at("home/.docker/run"), "docker.sock in it leads out"),
        (at("home/.docker/run/docker.sock"), "a socket or device leads out"),
    ] {
        let said = refused(&[mount(&source, "/data", false)], &state);
        assert!(said.contains(why), "{}: {said}", source.display());
    }
    for (target, why) in [
        ("/", "an absolute path"),
        ("data", "an absolute path"),
        ("/data/", "an absolute path"),
        ("/data/../etc", "an absolute path"),
        ("/a\nb", "an absolute path"),
        ("/etc/ssl", "/etc is the sandbox's own"),
        ("/sandbox", "/sandbox is the sandbox's own"),
        ("/opt", "/opt/clawkeep is the sandbox's own"),
        ("/var/tmp/x", "/var/tmp is the sandbox's own"),
    ] {
        let said = refused(&[mount(at("data"), target, false)], &state);
        assert!(said.contains(why), "{target}: {said}");
    }
    let twice = [mount(at("data"), "/data", false), mount(at("data"), "/data/below", false)];
    assert!(refused(&twice, &state).contains("is mounted at /data"));
}

#[test]
fn what_is_written_to_belongs_to_a_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a directory of somebody else's");
        return;
    }
    let lab = tempfile::tempdir().unwrap();
    let dir = lab.path().canonicalize().unwrap();
    fs::create_dir(dir.join("state")).unwrap();
    fs::create_dir(dir.join("data")).unwrap();
    let wanted = [mount(dir.join("data"), "/home/ann/data", true)];
    assert!(refused(&wanted, &dir.join("state")).contains("it belongs to root"));
    chown(dir.join("data"), Some(1000), Some(100)).unwrap();
    let ids = IdMap::Range { base: 1_900_000_000 };
    let mounts = resolve(&wanted, &dir.join("state"), &System::of_this_host(), ids).unwrap();
    assert_eq!(mounts[0].access, MountAccess::Shared { uid: 1000, gid: 100 });
    assert!(shown(&mounts[0]).ends_with("/data at /home/ann/data, writable"));
    let other = IdMap::Single { uid: 1001, gid: 100 };
    let failure = resolve(&wanted, &dir.join("state"), &System::of_this_host(), other).unwrap_err();
    assert!(failure.message.contains("only what is yours"), "{failure}");
}
