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

/// An image that says how it is started; `tool` is its program.
fn started(installation: &Installation, name: &str, tool: &str, started: &serde_json::Value) -> String {
    let programs = [PROGRAMS, &["sleep"]].concat();
    let layers = [
        ("", layout::system(&programs, Path::new("/usr/bin/sleep"))),
        ("", layout::programs(&[("opt/bin/tool", tool)])),
        ("", layout::files(&[("app/data", "of the app\n")])),
    ];
    let layout = Layout::new(&installation.scratch().join(name));
    layout.index(&[layout.image_started(architecture(), &layers, started)]);
    layout.path().display().to_string()
}

const TOOL: &str = "#!/bin/sh\npwd > /sandbox/said; echo \"$* $MODE\" >> /sandbox/said; env > /sandbox/env; exec sleep 1000\n";

fn onboard_image(installation: &Installation, from: &str, command: &[&str]) -> Output {
    let args = [
        "onboard",
        "--non-interactive",
        "--name",
        "box",
        "--agent",
        "command",
        "--settle",
        "1",
        "--from",
        from,
    ];
    installation.clawkeep(&[&args, command].concat())
}

#[test]
fn an_image_is_started_as_it_says_but_for_what_is_dangerous() {
    let installation = Installation::new();
    let config = serde_json::json!({
        "Entrypoint": ["tool", "--first"], "Cmd": ["second"], "WorkingDir": "/app", "User": "root",
        "Env": ["PATH=/opt/bin:/bin", "MODE=of-the-image", "LD_PRELOAD=/opt/evil.so", "NODE_OPTIONS=-r /evil", "HTTPS_PROXY=http://evil"],
    });
    let from = started(&installation, "one", TOOL, &config);
    let output = onboard_image(&installation, &from, &[]);
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("of its variables these are not taken: LD_PRELOAD, NODE_OPTIONS, HTTPS_PROXY"),
        "{told}"
    );
    assert!(told.contains("its user root is not taken"), "{told}");
    assert!(told.contains("command /opt/bin/tool of the image"), "{told}");
    let read = |name: &str| std::fs::read_to_string(installation.files("box").join(name)).unwrap();
    assert_eq!(read("said"), "/app\n--first second of-the-image\n");
    let env = read("env");
    assert!(env.contains("HTTPS_PROXY=http://127.0.0.1:3128\n") && !env.contains("evil"), "{env}");
    assert!(
        env.contains("PATH=/opt/bin:/bin:/usr/local/bin:/usr/bin\n") && env.contains("HOME=/sandbox\n"),
        "{env}"
    );
    assert_eq!(installation.exec("box", "id -u 2>/dev/null || cat data").0, "of the app\n");

    // Another image: the sandbox follows it, and keeps what is its own.
    std::fs::write(installation.files("box").join("kept"), "kept").unwrap();
    let before = images(&installation);
    let config = serde_json::json!({ "Cmd": ["/opt/bin/tool", "newer"], "Env": ["MODE=2"] });
    let newer = started(&installation, "two", TOOL, &config);
    let rebuilt = installation.clawkeep(&["box", "rebuild", "--yes", "--from", &newer]);
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    wait_until(LONG, "the newer one to have begun", || (read("said") == "/sandbox\nnewer 2\n").then_some(()));
    assert_eq!(read("kept"), "kept");
    let now =
        wait_until(LONG, "the old one to go", || Some(images(&installation)).filter(|now| now.len() == 1));
    assert_ne!(now, before);

    // One on which it does not run gives way to the one before, which is there all the while.
    let broken = started(&installation, "three", "#!/bin/sh\nexit 1\n", &config);
    let refused = installation.clawkeep(&["box", "rebuild", "--yes", "--from", &broken]);
    assert!(!refused.status.success() && said(&refused).contains("error[taken-back]"), "{}", said(&refused));
    installation.ready("box");
    let nothing = started(&installation, "four", TOOL, &serde_json::json!({}));
    let refused = installation.clawkeep(&["box", "rebuild", "--yes", "--from", &nothing]);
    assert!(said(&refused).contains("error[image-no-command]"), "{}", said(&refused));
    let status = installation.ready("box");
    let digest = now[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(status.system.contains(&format!("sha256:{}", &digest[..8])), "{} {digest}", status.system);
    assert_eq!(installation.exec("box", "cat /sandbox/kept /sandbox/said").0, "kept/sandbox\nnewer 2\n");
}

#[test]
fn an_image_without_a_command_needs_one() {
    let installation = Installation::new();
    for (name, config, why) in [
        ("none", serde_json::json!({}), "the image names no command of its own"),
        ("gone", serde_json::json!({"Cmd": ["gone"]}), "the image's command \"gone\" is no program in it"),
    ] {
        let output = onboard_image(&installation, &started(&installation, name, TOOL, &config), &[]);
        let told = said(&output);
        assert!(told.contains("error[image-no-command]") && told.contains(why), "{told}");
        assert_eq!(installation.daemon().sandboxes.len(), 0);
    }
    // With a command of one's own, what the image says of variables and directory counts all the same.
    let config = serde_json::json!({"Cmd": ["gone"], "WorkingDir": "/missing", "Env": ["MODE=mine"]});
    let output = onboard_image(
        &installation,
        &started(&installation, "own", TOOL, &config),
        &["--", "/opt/bin/tool", "x"],
    );
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("its directory /missing is not in it"), "{}", said(&output));
    let text = std::fs::read_to_string(installation.files("box").join("said")).unwrap();
    assert_eq!(text, "/sandbox\nx mine\n");
}

#[test]
fn a_damaged_image_is_unpacked_anew_before_a_sandbox_is_made_of_it() {
    let installation = Installation::new();
    let config = serde_json::json!({ "Cmd": ["/opt/bin/tool"] });
    let from = started(&installation, "one", TOOL, &config);
    let output = onboard_image(&installation, &from, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let program = images(&installation)[0].join("root/usr/bin/ls");
    let whole = std::fs::read(&program).unwrap();
    let lose_sandbox = |restarts| {
        let gateway = installation.status("box").gateway.unwrap().pid;
        kill9(testkit::processes::process(gateway).expect("it runs").parent);
        restarts
    };
    let restarts = installation.status("box").gateway.unwrap().restarts;
    std::fs::write(&program, "hostile").unwrap();
    installation.ready_after("box", lose_sandbox(restarts + 1));
    assert_eq!(std::fs::read(&program).unwrap(), whole);
    let mended = installation.events("box").into_iter().find(|event| event.entry.kind == "mended").unwrap();
    assert!(mended.entry.cause.contains("was damaged (/usr/bin/ls) and is unpacked anew"), "{mended:?}");

    // Without its layout there is no way to make it whole, and so no start.
    std::fs::rename(&from, format!("{from}.aside")).unwrap();
    std::fs::write(&program, "hostile").unwrap();
    lose_sandbox(0);
    wait_until(LONG, "the start to be refused", || {
        let told = installation.status("box").last_incident?;
        told.what
            .contains("is damaged (/usr/bin/ls) and the layout that it came from is not there")
            .then_some(())
    });
    assert!(installation.status("box").gateway.is_none());
    let refused = said(&installation.clawkeep(&["box", "rebuild", "--yes"]));
    assert!(refused.contains("error[image-damaged]"), "{refused}");
    std::fs::rename(format!("{from}.aside"), &from).unwrap();
    let rebuilt = installation.clawkeep(&["box", "rebuild", "--yes"]);
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    assert_eq!(std::fs::read(&program).unwrap(), whole);
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
