//! Whole installations with a fake npm: a shell script of that name, alone on the PATH with the system's tools.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::CWD;

use super::*;
use crate::Cancel;
use crate::openclaw::{LaunchContext, launch};

const LOCK: &str = r#"{"lockfileVersion": 3, "packages": {
    "": {"dependencies": {"openclaw": "1.2.3"}},
    "node_modules/openclaw": {"version": "1.2.3", "integrity": "sha512-o"},
    "node_modules/extra": {"version": "1.0.0", "integrity": "sha512-e", "optional": true}
}}"#;

const RELEASE: Release = Release {
    version: "1.2.3",
    generation: Generation::New,
    integrity: "sha512-o",
    node: &[NodePin {
        arch: std::env::consts::ARCH,
        package: "node-here",
        version: "24.0.1",
        integrity: "sha512-n",
    }],
    lock: LOCK,
    omit_optional: false,
    remove: &[".pending"],
    needs_bytes: 0,
};

/// What the fake does by default; each test can put a line before it. `$KIND` is `runtime` or `agent`.
const BODY: &str = r#"
if [ "$KIND" = runtime ]; then
    mkdir -p node_modules/node-here/bin
    printf '#!/bin/sh\n[ $# = 1 ] && echo v%s || echo "$NODE_OPTIONS|$*"\n' "${NODE:-24.0.1}" \
        > node_modules/node-here/bin/node
    chmod 755 node_modules/node-here/bin/node
    printf '{"packages": {"node_modules/node-here": {"version": "24.0.1", "integrity": "sha512-n"}}}' \
        > node_modules/.package-lock.json
else
    mkdir -p node_modules/openclaw/dist
    cd node_modules
    printf '{"version": "%s"}' "${VERSION:-1.2.3}" > openclaw/package.json
    printf 'entry' > openclaw/openclaw.mjs
    printf 'x' > openclaw/dist/x; chmod 6777 openclaw/dist/x
    printf 'y' > openclaw/dist/y; chmod 600 openclaw/dist/y
    printf 'pending' > openclaw/.pending
    chmod 700 openclaw/dist
    EXTRA=',"node_modules/extra": {"version": "1.0.0", "integrity": "sha512-e"}'
    printf '{"packages": {"node_modules/openclaw": {"version": "1.2.3", "integrity": "%s"}%s}}' \
        "${INTEGRITY:-sha512-o}" "${NO_EXTRA-$EXTRA}" > .package-lock.json
fi
"#;

struct Lab(tempfile::TempDir);

impl Lab {
    /// A fake npm that first does `before`, then what an npm does.
    fn new(before: &str) -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        lab.set_npm(before);
        for fifo in ["started", "go"] {
            rustix::fs::mkfifoat(CWD, lab.at(fifo), 0o600.into()).unwrap();
        }
        lab
    }

    fn set_npm(&self, before: &str) {
        let dir = self.at("tools");
        fs::create_dir_all(&dir).unwrap();
        let script = format!(
            "#!/bin/sh\nset -e\n[ \"$1\" != --version ] || exit 0\nLAB={}\n\
             case \"$PWD\" in *.runtime) KIND=runtime;; *) KIND=agent;; esac\n\
             echo \"$KIND $*\" >> \"$LAB/calls\"\n{before}\n{BODY}",
            self.0.path().display()
        );
        // Renamed into place, so that no other test's fork holds it open for writing when it is executed.
        fs::write(dir.join("new"), script).unwrap();
        fs::set_permissions(dir.join("new"), Permissions::from_mode(0o755)).unwrap();
        fs::rename(dir.join("new"), dir.join("npm")).unwrap();
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.at("home/bundles")
    }

    fn npm(&self) -> Npm {
        npm_of(self.0.path())
    }

    fn install(&self) -> Result<Bundle, InstallError> {
        install(&self.root(), &RELEASE, &self.npm(), &Cancel::default(), &mut |_| ())
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.at("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// What lies in the bundles' directory, but for the lock and the cache.
    fn left(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".install.lock" && name != ".npm-cache")
            .collect();
        names.sort();
        names
    }
}

fn npm_of(lab: &Path) -> Npm {
    let path = std::env::join_paths([lab.join("tools"), "/usr/bin".into(), "/bin".into()]).unwrap();
    Npm::in_path(&path).unwrap()
}

/// Wait for the fake npm to say that it is at work.
fn wait_for_start(lab: &Path) {
    let mut text = String::new();
    File::open(lab.join("started")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text.trim(), "started");
}

fn let_go(lab: &Path) {
    File::options().write(true).open(lab.join("go")).unwrap().write_all(b"go").unwrap();
}

/// The fake waits, at the step given, until it is let go.
fn wait_at(kind: &str) -> String {
    format!("[ \"$KIND\" != {kind} ] || {{ echo started > \"$LAB/started\"; cat \"$LAB/go\" > /dev/null; }}")
}

#[test]
fn a_bundle_is_installed_once_tamed_listed_and_found_again() {
    let lab = Lab::new("");
    let mut steps = Vec::new();
    let bundle =
        install(&lab.root(), &RELEASE, &lab.npm(), &Cancel::default(), &mut |s| steps.push(s)).unwrap();
    assert!(matches!(steps.last(), Some(Progress::Done { bytes, .. }) if *bytes == bundle.bytes()));
    assert_eq!(bundle.name(), format!("openclaw-1.2.3-node-24.0.1-{}", bundle.digest().short()));
    assert_eq!(lab.left(), [bundle.name()]);
    assert_eq!((bundle.version(), bundle.node_version()), ("1.2.3", "24.0.1"));

    let mode = |path: &str| bundle.dir().join(path).symlink_metadata().unwrap().mode() & 0o7777;
    let package = "app/node_modules/openclaw";
    assert_eq!(mode(""), 0o755);
    assert_eq!(mode(&format!("{package}/dist")), 0o755);
    assert_eq!(mode(&format!("{package}/dist/x")), 0o755);
    assert_eq!(mode(&format!("{package}/dist/y")), 0o644);
    assert_eq!((mode("bin/node"), mode("bin/openclaw")), (0o755, 0o755));
    assert!(!bundle.dir().join(package).join(".pending").exists());

    let calls = lab.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls.iter().all(|call| call.contains(" ci --ignore-scripts ")), "{calls:?}");

    bundle.verify_full().unwrap();
    for pinned in bundle.pinned_files() {
        assert_eq!(clawkeep_plan::Digest::of(&fs::read(&pinned.path).unwrap()), pinned.digest);
    }

    // Its command line, from wherever the bundle is shown; with the guards, also where its tools have none.
    let wrapper = bundle.dir().join("bin/openclaw");
    let said = |env: &[(&str, &str)]| {
        let mut command = std::process::Command::new(&wrapper);
        command.args(["cron", "a b"]).env_clear().envs(env.iter().copied());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let words =
        format!("{}/bin/../app/node_modules/openclaw/openclaw.mjs cron a b\n", bundle.dir().display());
    assert_eq!(said(&[]), format!("|{words}"));
    assert_eq!(said(&[("CLAWKEEP_NODE_OPTIONS", "--g")]), format!("--g|{words}"));
    assert_eq!(said(&[("NODE_OPTIONS", "--n"), ("CLAWKEEP_NODE_OPTIONS", "--g")]), format!("--n|{words}"));

    // The second time nothing is run, and the result is the same.
    let mut steps = Vec::new();
    let again =
        install(&lab.root(), &RELEASE, &lab.npm(), &Cancel::default(), &mut |s| steps.push(s)).unwrap();
    assert_eq!((steps, again, lab.calls().len()), (vec![Progress::Cached], bundle, 2));
    // Another installation of the same bytes has the same name.
    let other = Lab::new("");
    assert_eq!(lab.left(), [other.install().unwrap().name()]);
}

#[test]
fn a_bundle_is_launched_by_its_own_runtime_with_nothing_that_could_disarm_a_guard() {
    let lab = Lab::new("");
    let bundle = lab.install().unwrap();
    let context = LaunchContext { proxy_url: Some("http://127.0.0.1:3128".into()) };
    for generation in [Generation::Old, Generation::New] {
        let launch = launch(&bundle, generation, 18789, &context);
        let (program, entry) = (&launch.argv[0], &launch.argv[1]);
        for (inside, pinned) in [program, entry].into_iter().zip(&launch.files) {
            let below = inside.strip_prefix(crate::AGENT_MOUNT).unwrap();
            assert_eq!(pinned.path, format!("{}{below}", bundle.dir().display()));
        }
        assert_eq!(launch.argv[2..], ["gateway", "run", "--port", "18789", "--bind", "loopback"]);
        assert_eq!(launch.agent.runtime, "node 24.0.1");
        assert_eq!(launch.env["OPENCLAW_NO_RESPAWN"], "1");
        assert_eq!(launch.env.contains_key("OPENCLAW_PROXY_URL"), generation == Generation::New);
        for never in ["NODE_COMPILE_CACHE", "NODE_OPTIONS", "NODE_PATH", "INVOCATION_ID"] {
            assert!(!launch.env.contains_key(never), "{never}");
        }
    }
}

#[test]
fn every_alteration_of_a_bundle_is_seen() {
    let lab = Lab::new("");
    let bundle = lab.install().unwrap();
    let file = bundle.dir().join("app/node_modules/openclaw/dist/y");
    let edits: [fn(&Path); 4] = [
        |f| fs::write(f, "z").unwrap(),
        |f| fs::set_permissions(f, Permissions::from_mode(0o666)).unwrap(),
        |f| fs::remove_file(f).unwrap(),
        |f| fs::write(f.with_extension("new"), "").unwrap(),
    ];
    for edit in edits {
        edit(&file);
        let error = bundle.verify_full().unwrap_err();
        assert!(matches!(&error, BundleError::Altered { count: 1, .. }), "{error}");
        let _ = fs::remove_file(file.with_extension("new"));
        fs::write(&file, "y").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        bundle.verify_full().unwrap();
    }
    // Without its record it is no bundle, and the next installation replaces it.
    fs::remove_file(bundle.dir().join("bundle.json")).unwrap();
    assert_eq!(Bundle::find(&lab.root(), &RELEASE), None);
    assert_eq!(lab.install().unwrap().digest(), bundle.digest());
    assert_eq!(lab.left(), [bundle.name()]);
}

#[test]
fn each_failure_has_its_class_and_leaves_nothing() {
    let fail = |code: &str| format!("echo 'npm error code {code}' >&2; exit 1");
    for (before, code) in [
        (fail("EAI_AGAIN"), "offline"),
        (format!("[ $KIND = runtime ] || {{ {}; }}", fail("ENOSPC")), "disk-full"),
        (format!("[ $KIND = runtime ] || {{ {}; }}", fail("EINTEGRITY")), "integrity-mismatch"),
        (fail("EACCES"), "no-permission"),
        ("kill -9 $$".to_owned(), "npm-failed"),
        ("VERSION=9.9.9".to_owned(), "wrong-version"),
        ("INTEGRITY=sha512-evil".to_owned(), "integrity-mismatch"),
        ("NODE=20.0.0".to_owned(), "wrong-version"),
        ("NO_EXTRA=''".to_owned(), "wrong-version"),
        ("ln -s /etc/passwd out".to_owned(), "bad-tree"),
    ] {
        let lab = Lab::new(&before);
        let error = lab.install().unwrap_err();
        assert_eq!(error.code(), code, "{before}: {error}");
        assert_eq!(lab.left(), [""; 0], "{before}");
        // And the next try, with a better npm, succeeds.
        lab.set_npm("");
        lab.install().unwrap();
    }
}

#[test]
fn an_optional_package_that_npm_dropped_silently_is_asked_for_once_more() {
    let lab =
        Lab::new("[ $KIND = runtime ] || [ -e \"$LAB/tried\" ] || { touch \"$LAB/tried\"; NO_EXTRA=; }");
    lab.install().unwrap();
    let agent = lab.calls().iter().filter(|call| call.starts_with("agent")).count();
    assert_eq!(agent, 2, "{:?}", lab.calls());
}

#[test]
fn what_cannot_begin_does_not_begin() {
    assert_eq!(Npm::in_path(&OsString::new()).unwrap_err().code(), "npm-missing");
    assert_eq!(Npm::in_path(&OsString::from("relative:/nowhere")).unwrap_err().code(), "npm-missing");
    let lab = Lab::new("");
    let greedy = Release { needs_bytes: u64::MAX, ..RELEASE };
    let none = Release { node: &[], ..RELEASE };
    for (release, code) in [(greedy, "disk-full"), (none, "unsupported-machine")] {
        let error = install(&lab.root(), &release, &lab.npm(), &Cancel::default(), &mut |_| ()).unwrap_err();
        assert_eq!(error.code(), code);
    }
    assert_eq!(lab.calls(), [""; 0]);
}

#[test]
fn a_cancel_kills_npm_and_leaves_nothing() {
    let lab = Lab::new(&format!("echo $$ > \"$LAB/pid\"; {}", wait_at("agent")));
    let cancel = Cancel::default();
    let error = std::thread::scope(|scope| {
        let raised = cancel.clone();
        let path = lab.0.path();
        scope.spawn(move || {
            wait_for_start(path);
            raised.cancel();
        });
        install(&lab.root(), &RELEASE, &lab.npm(), &cancel, &mut |_| ()).unwrap_err()
    });
    assert_eq!(error.code(), "cancelled");
    assert_eq!(lab.left(), [""; 0]);
    let pid = fs::read_to_string(lab.at("pid")).unwrap();
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "npm lives on");
}

#[test]
fn two_installers_at_once_run_one_npm() {
    let lab = Lab::new(&wait_at("runtime"));
    let (first, second, steps) = std::thread::scope(|scope| {
        let first = scope.spawn(|| lab.install());
        wait_for_start(lab.0.path());
        let mut steps = Vec::new();
        let second = install(&lab.root(), &RELEASE, &lab.npm(), &Cancel::default(), &mut |step| {
            if step == Progress::Waiting {
                let_go(lab.0.path());
            }
            steps.push(step);
        });
        (first.join().unwrap(), second, steps)
    });
    assert_eq!(steps, [Progress::Waiting, Progress::Cached]);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(lab.calls().len(), 2, "{:?}", lab.calls());
}

/// Run by the next test in a process of its own, to be killed.
#[test]
#[ignore = "a helper process of another test"]
fn helper_process_that_installs() {
    if let Some(lab) = std::env::var_os("CLAWKEEP_TEST_LAB").map(PathBuf::from) {
        let root = lab.join("home/bundles");
        let _ = install(&root, &RELEASE, &npm_of(&lab), &Cancel::default(), &mut |_| ());
    }
}

#[test]
fn killed_midway_leaves_no_bundle_and_its_orphaned_npm_keeps_the_next_one_waiting() {
    for kind in ["runtime", "agent"] {
        let lab = Lab::new(&wait_at(kind));
        let mut helper = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "install::tests::helper_process_that_installs", "--ignored"])
            .env("CLAWKEEP_TEST_LAB", lab.0.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_for_start(lab.0.path());
        helper.kill().unwrap();
        helper.wait().unwrap();
        assert!(lab.left().iter().all(|name| name.starts_with(".staging-")), "{:?}", lab.left());
        assert_eq!(lab.left().len(), 1);

        lab.set_npm("");
        let mut waited = false;
        let bundle = install(&lab.root(), &RELEASE, &lab.npm(), &Cancel::default(), &mut |step| {
            if step == Progress::Waiting {
                waited = true;
                let_go(lab.0.path());
            }
        })
        .unwrap();
        assert!(waited, "the orphan was writing in the staging directory");
        assert_eq!(lab.left(), [bundle.name()]);
        bundle.verify_full().unwrap();
    }
}
