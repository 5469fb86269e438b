//! What a sandbox sees of the host: a system from an image, and directories that the operator shows it.

mod support;

use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use clawkeep_daemon::api::{Create, HostMount, Request};
use clawkeep_isolation::Limits;
use support::{CONFIG, Installation, LONG, kill9, name};
use testkit::layout::{self, Layout};
use testkit::wait_until;

/// Programs that the sandbox's own work needs, and the tests'.
const PROGRAMS: &[&str] = &["sh", "env", "find", "rm", "cat", "ls"];

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image of two layers, the second of which takes something of the first away.
fn image(installation: &Installation) -> PathBuf {
    let below = layout::system(PROGRAMS, testkit::fake::gateway());
    let files = [
        ("usr/lib/os-release", "ID=tiny\nVERSION_ID=3\n"),
        ("etc/passwd", "intruder:x:0:0::/:/bin/sh\n"),
        ("etc/motd", "of the image\n"),
        ("opt/secret", "x"),
        ("data/f", "of the image\n"),
    ];
    let above = layout::files(&[("opt/.wh.secret", ""), ("opt/tool", "a tool\n")]);
    let layout = Layout::new(&installation.scratch().join("layout"));
    let image = layout.image(architecture(), &[("", below), ("", layout::files(&files)), ("", above)]);
    layout.index(&[image]);
    layout.path().to_owned()
}

fn onboard(installation: &Installation, name: &str, more: &[&str]) -> Output {
    let (bundle, port) = (installation.fake_bundle(), testkit::free_port().to_string());
    let args = ["onboard", "--non-interactive", "--name", name, "--agent", "command", "--node-guards"];
    let health = ["--health-url", "http://127.0.0.1:18789/readyz", "--config-file", CONFIG, "--settle", "1"];
    let place = ["--bundle", bundle.to_str().unwrap(), "--dashboard-port", &port];
    let command = ["--", "/opt/clawkeep/agent/fake-gateway"];
    installation.clawkeep(&[&args, &health[..], &place, more, &command].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn images(installation: &Installation) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(installation.home.images()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn an_agent_lives_in_an_image_and_not_without_it() {
    let installation = Installation::new();
    let layout = image(&installation);
    let from = ["--from", layout.to_str().unwrap()];
    let first = onboard(&installation, "box", &from);
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("(tiny 3)"), "{}", said(&first));

    let (seen, status) = installation.exec("box", "cat /etc/motd /data/f /opt/tool; ls /opt /usr/bin");
    assert_eq!(status, 0, "{seen}");
    assert!(seen.starts_with("of the image\nof the image\na tool\n/opt:\nclawkeep\ntool\n"), "{seen}");
    assert!(!seen.contains("python") && !seen.contains("secret"), "{seen}");
    let (passwd, _) = installation.exec("box", "cat /etc/passwd");
    assert!(passwd.contains("sandbox:x:998") && !passwd.contains("intruder"), "{passwd}");
    for attempt in ["echo x > /data/f", "echo x > /etc/motd", "echo x > /opt/tool", "rm /usr/bin/rm"] {
        assert_ne!(installation.exec("box", attempt).1, 0, "{attempt}");
    }
    let told = installation.clawkeep(&["box", "status"]);
    assert!(said(&told).contains("system     image sha256:"), "{}", said(&told));

    // The next sandbox takes the same one, which stays until the last of them is gone.
    let second = onboard(&installation, "other", &from);
    assert!(second.status.success() && said(&second).contains("(cached)"), "{}", said(&second));
    let there = images(&installation);
    assert_eq!(there.len(), 1);

    // No launch without it as it was.
    let record = there[0].join("image.json");
    let whole = std::fs::read(&record).unwrap();
    let restarts = installation.status("box").gateway.unwrap().restarts;
    std::fs::write(&record, [&whole[..], b" "].concat()).unwrap();
    kill9(installation.status("box").gateway.unwrap().pid);
    wait_until(LONG, "the launch to be refused", || {
        installation.log("box").contains("file /opt/clawkeep/image.json: altered").then_some(())
    });
    std::fs::write(&record, whole).unwrap();
    installation.ready_after("box", restarts + 1);

    installation.ask(&Request::Destroy { name: name("box") }).unwrap();
    assert_eq!(images(&installation), there);
    installation.ask(&Request::Destroy { name: name("other") }).unwrap();
    assert_eq!(images(&installation), [""; 0].map(PathBuf::from));
}

#[test]
fn an_image_that_cannot_be_one_leaves_no_sandbox() {
    let installation = Installation::new();
    let layout = image(&installation);
    let output = onboard(&installation, "box", &["--from", installation.scratch().to_str().unwrap()]);
    assert!(said(&output).contains("error[image-not-a-layout]"), "{}", said(&output));
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten().map(|blob| blob.path());
    let largest = blobs.max_by_key(|blob| blob.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let output = onboard(&installation, "box", &["--from", layout.to_str().unwrap()]);
    assert!(said(&output).contains("error[image-digest-wrong]"), "{}", said(&output));
    assert_eq!((images(&installation).len(), installation.daemon().sandboxes.len()), (0, 0));
}

/// The fake gateway in a sandbox that is shown these.
fn create(installation: &Installation, mounts: Vec<HostMount>) {
    let Request::Create(create) = installation.fake("box", &[], true, Limits::default()) else { panic!() };
    installation.ask(&Request::Create(Box::new(Create { mounts, ..*create }))).unwrap();
    installation.ask(&Request::Onboarded { name: name("box") }).unwrap();
}

fn mount(source: &Path, target: &str, writable: bool) -> HostMount {
    HostMount { source: source.to_owned(), target: target.to_owned(), writable }
}

#[test]
fn what_is_shown_can_be_read_and_what_is_shared_is_the_agents() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a directory of somebody else's");
        return;
    }
    let installation = Installation::new();
    let scratch = installation.scratch().canonicalize().unwrap();
    let (shown, shared) = (scratch.join("shown"), scratch.join("shared"));
    for dir in [&shown, &shared] {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("f"), "text\n").unwrap();
        for path in [dir.clone(), dir.join("f")] {
            chown(path, Some(1000), Some(1000)).unwrap();
        }
    }
    create(&installation, vec![mount(&shown, "/srv/shown", false), mount(&shared, "/home/ann/work", true)]);
    installation.ready("box");
    let (seen, status) = installation.exec(
        "box",
        "set -e; cat /srv/shown/f; cd /home/ann/work; cat f; echo more >> f; echo new > g; mkdir d; ln g d/g; stat -c %u g",
    );
    assert_eq!((seen.as_str(), status), ("text\ntext\n998\n", 0));
    for attempt in [
        "echo x > /srv/shown/f",
        "echo x > /srv/shown/new",
        "rm /srv/shown/f",
        "mknod /home/ann/work/n c 1 3",
    ] {
        assert_ne!(installation.exec("box", attempt).1, 0, "{attempt}");
    }
    let new = shared.join("g").metadata().unwrap();
    assert_eq!((new.uid(), new.gid()), (1000, 1000));
    assert_eq!(std::fs::read_to_string(shared.join("f")).unwrap(), "text\nmore\n");
    let told = said(&installation.clawkeep(&["box", "status"]));
    assert!(told.contains("/shown at /srv/shown, read-only\n"), "{told}");
    assert!(told.contains("/shared at /home/ann/work, writable\n"), "{told}");
}

#[test]
fn a_link_in_the_place_of_what_is_shown_is_never_followed() {
    let installation = Installation::new();
    let scratch = installation.scratch().canonicalize().unwrap();
    let (inner, secret) = (scratch.join("outer/inner"), scratch.join("secret"));
    for dir in [&inner, &secret] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(secret.join("f"), "secret").unwrap();
    create(&installation, vec![mount(&inner, "/srv/inner", false)]);
    installation.ready("box");
    // As somebody would who may write to the directory above.
    std::fs::rename(&inner, scratch.join("outer/aside")).unwrap();
    symlink(&secret, &inner).unwrap();
    let gateway = installation.status("box").gateway.unwrap().pid;
    kill9(testkit::processes::process(gateway).expect("the gateway runs").parent);
    wait_until(LONG, "the start to be refused", || {
        let told = installation.status("box").last_incident?;
        told.what.contains("there is a symbolic link in its path now").then_some(())
    });
    std::fs::remove_file(&inner).unwrap();
    std::fs::rename(scratch.join("outer/aside"), &inner).unwrap();
    installation.ask(&Request::Recover { name: name("box") }).unwrap();
    installation.ready("box");
    assert_ne!(installation.exec("box", "cat /srv/inner/f").1, 0);
}
