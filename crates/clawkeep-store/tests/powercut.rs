//! The power goes, or a system call fails, between any two effects of everything that the store writes. What
//! was reported as done must be there afterwards, what was under way is there or not, and nothing is half.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use clawkeep_credentials::Binding;
use clawkeep_plan::SandboxName;
use clawkeep_store::{
    Credential, Credentials, Desired, Entry, Home, NewSandbox, Secret, Secrets, Snapshots, Source, Store,
};
use serde_json::{Value, json};
use testkit::powercut::{Fault, Loss, Point, Trace, can_trace, scratch};
use testkit::{Rng, Seed};

/// Where the child works, and that this process is one.
const CHILD: &str = "CLAWKEEP_TEST_POWERCUT";

/// How many calls kill the program, and how many fail; with `CLAWKEEP_POWERCUT=all` every one.
const INJECTIONS: usize = 120;

fn name(text: &str) -> SandboxName {
    text.parse().unwrap()
}

/// Everything that is opened of a home.
struct World {
    home: Home,
    store: Option<Store>,
    secrets: Secrets,
}

type Done = Result<(), Box<dyn std::error::Error>>;

impl World {
    fn open(root: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let home = Home::open(root)?;
        let store = Some(Store::open(&home)?.store);
        let secrets = Secrets::new(&home);
        Ok(Self { home, store, secrets })
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn snapshots(&self, sandbox: &str) -> Snapshots {
        Snapshots::of(&self.home.sandbox(&name(sandbox)))
    }

    fn insert(&self, sandbox: &str) -> Done {
        self.store().insert(NewSandbox {
            name: name(sandbox),
            desired: Desired::Running,
            adapter: json!({"n": 0}),
            route: json!({"filler": "x".repeat(6_000)}),
            isolation: json!({}),
            policy: serde_json::Value::Null,
            dashboard_port: None,
            onboarding: true,
        })?;
        Ok(())
    }

    /// What is left as it is stays to be sealed: whoever starts the next time tries again, as this does.
    fn seal(&self) -> Done {
        match self.secrets.seal_all()?.left.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    fn credential(&self, host: &str, value: &str) -> Done {
        let binding = Binding { hosts: vec![host.parse()?], sandbox: None };
        let credential = Credential { binding, source: Source::Typed, set_at: Some(1) };
        Ok(Credentials::new(&self.secrets).put(&"GH".parse()?, &credential, Some(&Secret::new(value)))?)
    }

    fn append(&self, sandbox: Option<SandboxName>, cause: &str) -> Done {
        self.store().append_all(&[cause, "and"].map(|cause| Entry {
            at_ms: 1,
            sandbox: sandbox.clone(),
            kind: "k".into(),
            cause: cause.into(),
            data: json!({"filler": "y".repeat(3_000)}),
        }))?;
        Ok(())
    }

    /// All that can be read, without what differs between two runs.
    fn observe(&self) -> Value {
        let records = self.store().list().unwrap();
        let mut seen = serde_json::Map::new();
        for record in records {
            let mut text = serde_json::to_value(&record).unwrap();
            text.as_object_mut().unwrap().remove("created_at");
            text["route"] = json!(text["route"].to_string().len());
            seen.insert(format!("record {}", record.name), text);
        }
        let events = self.store().tail(None, 99).unwrap();
        seen.insert("events".into(), events.iter().map(|event| event.entry.cause.clone()).collect());
        if let Some((about, value)) = Credentials::new(&self.secrets).get(&"GH".parse().unwrap()).unwrap() {
            let host = about.binding.hosts[0].to_string();
            seen.insert("credential".into(), json!([host, value.unwrap().expose_str()]));
        }
        for sandbox in ["a", "b"] {
            for key in self.secrets.keys(&name(sandbox)).unwrap() {
                let secret = self.secrets.get(&name(sandbox), &key).unwrap().unwrap();
                seen.insert(format!("secret {sandbox} {key}"), secret.expose_str().unwrap().into());
            }
            let snapshots = self.snapshots(sandbox);
            let healthy = snapshots.all_healthy("config").unwrap();
            assert!(healthy.iter().all(|healthy| healthy.damaged.is_empty()));
            let healthy: Vec<_> =
                healthy.iter().map(|healthy| String::from_utf8_lossy(&healthy.bytes[..5])).collect();
            seen.insert(format!("healthy {sandbox}"), json!(healthy));
            seen.insert(format!("mark {sandbox}"), json!(snapshots.mark("version").unwrap()));
        }
        seen.into()
    }
}

/// A name, and what is done.
type Step = (&'static str, fn(&mut World) -> Done);

/// What is done, one durable thing each.
const STEPS: [Step; 27] = [
    ("insert a", |w| w.insert("a")),
    ("insert b", |w| w.insert("b")),
    // As a version before encryption at rest left it.
    ("key of b in the clear", |w| {
        let dir = w.home.secrets().join("b");
        std::fs::create_dir_all(&dir)?;
        clawkeep_store::atomic::sync_at(&w.home.secrets())?;
        let dir = clawkeep_store::atomic::open_dir(&dir)?;
        Ok(clawkeep_store::atomic::write(dir, "OLD", b"clear", rustix::fs::Mode::RUSR)?)
    }),
    ("seal it", |w| w.seal()),
    ("key of a", |w| Ok(w.secrets.put(&name("a"), "K", &Secret::new("first"))?)),
    ("stop a", |w| Ok(w.store().update(&name("a"), |r| r.desired = Desired::Stopped).map(drop)?)),
    ("append", |w| w.append(Some(name("a")), "one")),
    ("default b", |w| Ok(w.store().set_default(&name("b"))?)),
    ("another key of a", |w| Ok(w.secrets.put(&name("a"), "K", &Secret::new("second"))?)),
    ("healthy 1", |w| Ok(w.snapshots("a").put_healthy("config", &vec![b'1'; 9_000]).map(drop)?)),
    ("healthy 2", |w| Ok(w.snapshots("a").put_healthy("config", &vec![b'2'; 9_000]).map(drop)?)),
    ("aside", |w| Ok(w.snapshots("a").put_aside("config", b"bad", "it died").map(drop)?)),
    ("mark", |w| Ok(w.snapshots("a").set_mark("version", &json!("1.0"))?)),
    ("healthy 1 again", |w| Ok(w.snapshots("a").put_healthy("config", &vec![b'1'; 9_000]).map(drop)?)),
    ("mark again", |w| Ok(w.snapshots("a").set_mark("version", &json!("2.0"))?)),
    ("onboarded b", |w| Ok(w.store().update(&name("b"), |r| r.onboarding = false).map(drop)?)),
    ("close", |w| {
        // The last connection moves the log into the database and removes it.
        w.store = None;
        Ok(())
    }),
    ("open", |w| {
        w.store = Some(Store::open(&w.home)?.store);
        Ok(())
    }),
    ("a credential", |w| w.credential("a.example", "first")),
    ("another host and value", |w| w.credential("b.example", "second")),
    ("no credential", |w| Ok(Credentials::new(&w.secrets).remove(&"GH".parse()?).map(drop)?)),
    ("nothing to seal", |w| w.seal()),
    ("append more", |w| w.append(Some(name("a")), "two")),
    ("forget the key of b", |w| Ok(w.secrets.remove_all(&name("b"))?)),
    ("remove b", |w| Ok(w.store().remove(&name("b")).map(drop)?)),
    ("forget the key of a", |w| Ok(w.secrets.remove(&name("a"), "K").map(drop)?)),
    ("insert b anew", |w| w.insert("b")),
];

/// What is to be seen after each number of steps.
fn expected() -> Vec<Value> {
    let temp = tempfile::tempdir_in(scratch()).unwrap();
    let mut world = World::open(temp.path()).unwrap();
    let mut seen = vec![world.observe()];
    for (what, step) in STEPS {
        step(&mut world).unwrap_or_else(|error| panic!("{what}: {error}"));
        seen.push(if world.store.is_some() { world.observe() } else { seen[seen.len() - 1].clone() });
    }
    seen
}

/// Not a test by itself: what the others run. Says each step that is done; a step that fails is tried again,
/// as whoever asked for it would.
#[test]
fn child_that_writes() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let again = |attempt: &mut dyn FnMut() -> Done| {
        let mut left = 20;
        loop {
            match attempt() {
                Err(error) if left == 0 => panic!("{error}"),
                Err(_) => left -= 1,
                Ok(()) => return,
            }
        }
    };
    testkit::powercut::leave_the_harness_behind();
    let mut world = None;
    again(&mut || {
        world = Some(World::open(Path::new(&root))?);
        Ok(())
    });
    let mut world = world.unwrap();
    say_done();
    for (_, step) in STEPS {
        let mut tried = false;
        again(&mut || match step(&mut world) {
            // What failed may have been done: its answer was lost, nothing else.
            Err(error)
                if tried
                    && ["already a sandbox", "no sandbox"].iter().any(|e| error.to_string().contains(e)) =>
            {
                Ok(())
            }
            result => {
                tried = true;
                result
            }
        });
        say_done();
    }
}

/// On a line of its own whatever the harness printed before.
fn say_done() {
    use std::io::Write;
    let mut out = std::io::stdout();
    out.write_all(b"\ndone\n").and_then(|()| out.flush()).unwrap();
}

fn child(root: &Path) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child_that_writes", "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, root);
    child
}

/// Opens what is there; it must be what was seen after `done` steps or one more.
fn verify(root: &Path, expected: &[Value], done: usize, what: &dyn std::fmt::Display) {
    let world = World::open(root).unwrap_or_else(|error| panic!("{what}: cannot be opened: {error}"));
    let seen = world.observe();
    // Saying the first `done` is no step.
    let steps = done.saturating_sub(1);
    let fits = expected[steps..].iter().take(2).any(|expected| *expected == seen);
    assert!(
        fits,
        "{what}, {done} done:\nseen   {seen}\nbefore {}\nafter  {}",
        expected[steps],
        expected.get(steps + 1).unwrap_or(&Value::Null)
    );
    // And it goes on from there.
    world.append(None, "after").unwrap_or_else(|error| panic!("{what}: {error}"));
    drop(world);
    let again = World::open(root).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    assert!(again.observe()["events"].as_array().unwrap().contains(&json!("after")), "{what}");
}

fn traced() -> Option<(Trace, Rng)> {
    if !can_trace() {
        eprintln!("SKIPPED: strace(1) is missing or may not trace");
        return None;
    }
    let rng = Seed::from_env_or_random().rng();
    let temp = tempfile::tempdir_in(scratch()).unwrap();
    let root = temp.path().join("home");
    std::fs::create_dir(&root).unwrap();
    let trace = Trace::record(&root, &child(&root));
    assert_eq!(trace.done_at(trace.cuts()), STEPS.len() + 1);
    Some((trace, rng))
}

#[test]
fn the_power_goes_between_any_two_effects() {
    let Some((trace, mut rng)) = traced() else { return };
    let expected = expected();
    let mut disks = Vec::new();
    let mut known = BTreeSet::new();
    for cut in 0..=trace.cuts() {
        for loss in Loss::ALL.into_iter().chain([Loss::Some; 3]) {
            let disk = trace.disk(cut, loss, &mut rng);
            if known.insert((trace.done_at(cut), disk.fingerprint())) {
                disks.push((cut, loss, disk));
            }
        }
    }
    eprintln!("{} effects, {} states of the disk", trace.cuts(), disks.len());
    assert!(disks.len() > 500, "strace(1) told too little");
    for (cut, loss, disk) in disks {
        let temp = tempfile::tempdir_in(scratch()).unwrap();
        disk.write_to(temp.path());
        let what = format!("power cut after effect {cut}, loss {loss:?}");
        verify(temp.path(), &expected, trace.done_at(cut), &what);
    }
}

fn sample(points: &[Point], rng: &mut Rng) -> Vec<Point> {
    let mut points = points.to_vec();
    let all = std::env::var("CLAWKEEP_POWERCUT").is_ok_and(|value| value == "all");
    while !all && points.len() > INJECTIONS {
        points.remove(rng.within(0..points.len() as u64) as usize);
    }
    points
}

#[test]
fn killed_at_any_call() {
    let Some((trace, mut rng)) = traced() else { return };
    let expected = expected();
    let mut killed = 0;
    for point in sample(trace.points(), &mut rng) {
        let temp = tempfile::tempdir_in(scratch()).unwrap();
        let root = temp.path().join("home");
        std::fs::create_dir(&root).unwrap();
        let said = temp.path().join("said");
        let status = point.inject(Fault::Kill, &child(&root), &said);
        killed += usize::from(!status.success());
        let done = std::fs::read_to_string(&said).unwrap().matches("\ndone").count();
        verify(&root, &expected, done, &format!("killed at {point:?}"));
    }
    assert!(killed > 0);
}

#[test]
fn an_error_at_any_call_is_survived() {
    let Some((trace, mut rng)) = traced() else { return };
    let expected = expected();
    for point in sample(trace.points(), &mut rng) {
        let error = *rng.pick(&["ENOSPC", "EIO", "EDQUOT", "EROFS"]);
        let temp = tempfile::tempdir_in(scratch()).unwrap();
        let root = temp.path().join("home");
        std::fs::create_dir(&root).unwrap();
        let said = temp.path().join("said");
        let status = point.inject(Fault::Error(error), &child(&root), &said);
        let done = std::fs::read_to_string(&said).unwrap().matches("\ndone").count();
        let what = format!("{error} at {point:?}");
        assert!(status.success(), "{what}: the program failed after {done} steps");
        verify(&root, &expected, done, &what);
    }
}
