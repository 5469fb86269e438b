//! The fake gateway does what it says: guards, reports, locks, and every order.

use std::fs::File;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use clawkeep_plan::Digest;
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Leftovers, fake, http, processes, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// A directory for one fake gateway, and the port that it uses.
struct Bench {
    dir: tempfile::TempDir,
    port: u16,
}

/// A running fake; killed when the test ends, whatever happens.
struct Fake(Child, u16);

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), port: testkit::free_port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fake-gateway"));
        command.args(["gateway", "run"]).args(args).env_clear();
        command.env("FAKE_PORT", self.port.to_string()).env("TMPDIR", self.dir.path());
        command.env("FAKE_REPORT", self.path("report")).env("FAKE_ORDERS", self.path("orders"));
        command.env("OPENCLAW_CONFIG_PATH", "/sandbox/.openclaw/openclaw.json");
        command.stdin(Stdio::null()).stdout(File::create(self.path("log")).unwrap());
        command.stderr(File::create(self.path("errors")).unwrap());
        command
    }

    fn start(&self, args: &[&str]) -> Fake {
        Fake(self.command(args).spawn().unwrap(), self.port)
    }

    fn ready(&self, args: &[&str]) -> Fake {
        let mut fake = self.start(args);
        wait_until(SOON, "the fake is ready", || {
            assert_eq!(fake.0.try_wait().unwrap(), None, "{}", self.text("errors"));
            fake.get("/readyz").filter(|answer| answer.status == 200)
        });
        fake
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn lock(&self) -> PathBuf {
        let uid = rustix::process::geteuid().as_raw();
        let id = &Digest::of(b"/sandbox/.openclaw/openclaw.json").to_string()[..8];
        self.path(&format!("openclaw-{uid}/gateway.{id}.lock"))
    }
}

impl Fake {
    fn connect(&self) -> Option<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.1)).ok()?;
        stream.set_read_timeout(Some(SOON)).unwrap();
        Some(stream)
    }

    /// The error of a request that nobody answers.
    fn unanswered(&self) -> Option<std::io::Error> {
        let stream = self.connect().expect("it still listens");
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        http::get(stream, "/healthz").err()
    }

    fn get(&self, target: &str) -> Option<http::Answer> {
        http::get(self.connect()?, target).ok()
    }

    fn order(&self, orders: &str) -> serde_json::Value {
        let stream = self.connect().unwrap();
        let answer = http::post(stream, &format!("/fake/{orders}"), b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().unwrap()
    }

    fn ended(&mut self) -> ExitStatus {
        wait_until(SOON, "the fake ends", || self.0.try_wait().unwrap())
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
    }
}

fn code(status: ExitStatus) -> Option<i32> {
    status.code()
}

#[test]
fn loads_guards_in_order_and_leaves_a_receipt() {
    let bench = Bench::new();
    std::fs::write(bench.path("b.js"), "second").unwrap();
    std::fs::write(bench.path("nemoclaw-a.js"), "first").unwrap();
    let (b, a) = (bench.path("b.js"), bench.path("nemoclaw-a.js"));
    // A shell puts the pipe on descriptor 3, as the supervisor does.
    let (mut receipt, pipe) = std::io::pipe().unwrap();
    let mut command = bench.command(&[]);
    let program = command.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec 3>&0 </dev/null; exec "$0" gateway run"#]).arg(program).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("CLAWKEEP_RECEIPT_FD", "3").env("CLAWKEEP_RECEIPT_GUARDS", "2");
    shell.env("NODE_OPTIONS", format!("--require {} --require {}", a.display(), b.display()));
    shell.stdin(pipe).stdout(File::create(bench.path("log")).unwrap());
    let fake = Fake(shell.spawn().unwrap(), bench.port);
    drop((command.stdin(Stdio::null()), shell));

    // It ends although the fake lives on: the pipe was closed after the second guard.
    let mut text = String::new();
    receipt.read_to_string(&mut text).unwrap();
    let line = |name: &str, bytes: &[u8]| {
        format!("{{\"digest\":\"{}\",\"kind\":\"guard\",\"name\":\"{name}\"}}\n", Digest::of(bytes))
    };
    assert_eq!(text, line("a", b"first") + &line("b", b"second"));
    wait_until(SOON, "ready", || fake.get("/readyz").filter(|answer| answer.status == 200));

    let launches = fake::launches(&bench.path("report"));
    let [launch] = &launches[..] else { panic!("one launch: {launches:?}") };
    assert!(launch.receipt);
    assert_eq!(launch.pid, fake.0.id());
    assert_eq!(Some(launch.start_time), processes::start_time(fake.0.id().cast_signed()));
    assert_eq!(launch.guards.iter().map(|guard| guard.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(launch.env["CLAWKEEP_RECEIPT_FD"], "3");
    assert_eq!(launch.argv[1..], ["gateway", "run"]);
    assert!(bench.text("log").contains("[guard] a loaded (openclaw-gateway)\n[guard] b loaded"));
    assert!(bench.text("log").contains("[gateway] ready\n"));
}

#[test]
fn a_second_one_beside_it_is_told_from_one_after_it() {
    let bench = Bench::new();
    let first = bench.ready(&["--lock", "off"]);
    let mut command = bench.command(&["--lock", "off", "--on-start", "exit-0"]);
    command.env("FAKE_PORT", testkit::free_port().to_string());
    assert_eq!(code(command.status().unwrap()), Some(0));
    drop(first);
    assert_eq!(code(command.status().unwrap()), Some(0));
    let launches = fake::launches(&bench.path("report"));
    assert_eq!(launches.iter().map(|launch| launch.alone).collect::<Vec<_>>(), [true, false, true]);
    assert!(launches.is_sorted_by_key(|launch| launch.began_ns), "{launches:?}");
}

#[test]
fn a_missing_require_ends_it_as_node_ends() {
    let bench = Bench::new();
    let mut command = bench.command(&[]);
    let gone = bench.path("gone.js");
    command.env("NODE_OPTIONS", format!("--require {}", gone.display()));
    assert_eq!(code(command.status().unwrap()), Some(1));
    assert!(bench.text("errors").contains(&format!("Cannot find module '{}'", gone.display())));
    assert_eq!(fake::launches(&bench.path("report")), vec![]);
    assert!(!bench.lock().exists());
}

#[test]
fn without_a_pipe_there_is_no_receipt() {
    let bench = Bench::new();
    std::fs::write(bench.path("a.js"), "x").unwrap();
    let mut command = bench.command(&["--on-start", "exit-0"]);
    command.env("NODE_OPTIONS", format!("--require={}", bench.path("a.js").display()));
    command.env("CLAWKEEP_RECEIPT_FD", "77").env("CLAWKEEP_RECEIPT_GUARDS", "1");
    assert_eq!(code(command.status().unwrap()), Some(0));
    let launches = fake::launches(&bench.path("report"));
    assert_eq!((launches[0].receipt, launches[0].guards.len()), (false, 1));
}

#[test]
fn serves_the_health_of_the_real_one_and_warms_up() {
    let bench = Bench::new();
    let fake = bench.start(&["--warmup-ms", "3600000", "--health-status", "401"]);
    let answer = wait_until(SOON, "it listens", || fake.get("/readyz"));
    assert_eq!((answer.status, answer.text().as_str()), (503, r#"{"ready":false}"#));
    assert_eq!(fake.get("/healthz").unwrap().text(), r#"{"ok":true,"status":"live"}"#);
    assert_eq!(fake.get("/health").unwrap().status, 401);
    assert_eq!(fake.get("/nothing").unwrap().header("content-type"), Some("text/html"));
    assert_eq!(http::post(fake.connect().unwrap(), "/fake/dance", b"x").unwrap().status, 400);
    drop(fake);
    drop(bench.ready(&["--lock", "off", "--warmup-ms", "20"]));
}

#[test]
fn sigterm_is_a_clean_end_unless_it_was_told_otherwise() {
    let bench = Bench::new();
    let mut fake = bench.ready(&[]);
    let lock: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(bench.lock()).unwrap()).unwrap();
    assert_eq!(lock["pid"], fake.0.id());
    assert_eq!(lock["startTime"].as_u64(), processes::start_time(fake.0.id().cast_signed()));
    fake.terminate();
    assert_eq!(code(fake.ended()), Some(0));
    assert!(!bench.lock().exists());

    let mut fake = bench.ready(&[]);
    fake.order("ignore-sigterm");
    fake.terminate();
    wait_until(SOON, "it says so", || bench.text("log").contains("SIGTERM ignored").then_some(()));
    assert_eq!(fake.0.try_wait().unwrap(), None);
    assert_eq!(fake.get("/healthz").unwrap().status, 200);

    fake.order("leave-lock,exit-78");
    assert_eq!(code(fake.ended()), Some(78));
    assert!(bench.lock().exists());
}

#[test]
fn crashes_leave_the_lock_and_the_next_start_takes_it() {
    let bench = Bench::new();
    let mut fake = bench.ready(&[]);
    fake.order("crash:3");
    assert_eq!(code(fake.ended()), Some(3));
    assert!(bench.lock().exists());
    let mut refused = bench.start(&["--lock", "refuse", "--twin-exit", "9"]);
    assert_eq!(code(refused.ended()), Some(9));

    let mut fake = bench.ready(&[]);
    let mut twin = bench.start(&["--twin-exit", "78"]);
    assert_eq!(code(twin.ended()), Some(78));
    assert!(bench.text("errors").contains("gateway already running"));
    fake.order("crash");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&fake.ended()), Some(6));

    // A pid that lives, with another start time: the number was used again.
    let recycled = format!(r#"{{"pid":{},"startTime":1}}"#, std::process::id());
    for stale in [recycled.as_str(), "torn"] {
        std::fs::write(bench.lock(), stale).unwrap();
        let mut fake = bench.ready(&[]);
        fake.order("exit-0");
        assert_eq!(code(fake.ended()), Some(0));
        assert!(!bench.lock().exists());
    }
    let dir = bench.lock().parent().map(Path::to_path_buf).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(code(bench.start(&[]).ended()), Some(1));
    assert!(bench.text("errors").contains("Unsafe fallback OpenClaw temp dir"));
    std::fs::remove_dir(&dir).unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    drop(bench.ready(&[]));
}

#[test]
fn hang_mute_deaf_and_spin_each_look_as_they_should() {
    let bench = Bench::new();
    for order in ["hang", "mute", "spin"] {
        let fake = bench.ready(&["--lock", "off"]);
        fake.order(order);
        // The accept loop may still be taking one last connection when the order is answered.
        let error = wait_until(SOON, "it answers no more", || fake.unanswered());
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{order}");
    }
    let fake = bench.ready(&["--lock", "off"]);
    fake.order("deaf");
    wait_until(SOON, "nobody listens", || fake.connect().is_none().then_some(()));
    assert!(processes::process(fake.0.id().cast_signed()).is_some_and(|process| process.state != 'Z'));
}

#[test]
fn an_orphan_keeps_the_port_from_the_next_one() {
    let leftovers = Leftovers::before();
    let bench = Bench::new();
    let mut fake = bench.ready(&[]);
    let answer = fake.order("fork,crash:1");
    assert_eq!(code(fake.ended()), Some(1));
    let orphan = answer["left"][0].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).unwrap();
    let mut next = bench.start(&["--port-exit", "5"]);
    assert_eq!(code(next.ended()), Some(5));
    assert!(!bench.lock().exists());
    assert!(leftovers.new_ones().iter().any(|what| what.starts_with("process ")));
    kill_process(orphan, Signal::KILL).unwrap();
    wait_until(SOON, "the orphan was ours to reap", || {
        rustix::process::waitpid(Some(orphan), rustix::process::WaitOptions::NOHANG).unwrap()
    });
    drop(bench.ready(&[]));
    leftovers.assert_none_new(SOON);
}

#[test]
fn floods_and_eats_on_order() {
    let bench = Bench::new();
    let fake = bench.ready(&[]);
    fake.order("flood:3");
    let log = bench.path("log");
    wait_until(SOON, "three MiB of log", || {
        (std::fs::metadata(&log).unwrap().len() >= 3 << 20).then_some(())
    });
    fake.order("eat-memory:64");
    let status = format!("/proc/{}/status", fake.0.id());
    wait_until(SOON, "64 MiB more", || {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        (kib >= 64 * 1024).then_some(())
    });
}

#[test]
fn a_file_of_orders_drives_consecutive_starts() {
    let bench = Bench::new();
    std::fs::write(bench.path("orders"), "exit-0\ncrash:4@ready\nnone\n").unwrap();
    assert_eq!(code(bench.start(&[]).ended()), Some(0));
    assert!(!bench.text("log").contains("ready"));
    assert_eq!(code(bench.start(&["--warmup-ms", "20"]).ended()), Some(4));
    assert!(bench.text("log").contains("[gateway] ready"));
    drop(bench.ready(&[]));
    assert_eq!(bench.text("orders"), "");
    assert_eq!(fake::launches(&bench.path("report")).len(), 3);
}
