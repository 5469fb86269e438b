//! A whole installation for one test: its own state directory, its own daemon, the real program.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use clawkeep_daemon::api::{AgentChoice, Create, Failure, Request, SandboxStatus, Status, Value};
use clawkeep_daemon::ensure;
use clawkeep_isolation::Limits;
use clawkeep_plan::SandboxName;
use clawkeep_store::{Home, Span};
use testkit::fake::Launch;
use testkit::{Handle, Leftovers, wait_until};

/// For whatever must happen on a machine that is busy with other tests.
/// The fake gateway's configuration, below its home.
pub const CONFIG: &str = ".openclaw/openclaw.json";

pub const LONG: Duration = Duration::from_secs(120);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_clawkeep");

pub struct Installation {
    pub home: Home,
    program: PathBuf,
    dir: Option<tempfile::TempDir>,
    leftovers: Option<Leftovers>,
}

pub fn name(text: &str) -> SandboxName {
    text.parse().unwrap()
}

impl Installation {
    pub fn new() -> Self {
        Self::with(None, PROGRAM.into())
    }

    /// With its state in this directory, which the test looks after.
    pub fn at(state: &Path) -> Self {
        Self::with(Some(state), PROGRAM.into())
    }

    /// Of this copy of the program.
    pub fn of(program: &Path) -> Self {
        Self::with(None, program.to_owned())
    }

    fn with(state: Option<&Path>, program: PathBuf) -> Self {
        let leftovers = Leftovers::before();
        let dir = tempfile::tempdir().unwrap();
        let state = state.map_or_else(|| dir.path().join("state"), Path::to_owned);
        let home = Home::open(&state).unwrap();
        Self { home, program, dir: Some(dir), leftovers: Some(leftovers) }
    }

    /// A directory that belongs to the test.
    pub fn scratch(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// The command line, for real.
    pub fn clawkeep(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("CLAWKEEP_HOME", self.home.root()).stdin(std::process::Stdio::null());
        command
    }

    pub fn ask(&self, request: &Request) -> Result<Value, Failure> {
        let ask = || ensure(&self.home, &self.program)?.ask(request, |_| {});
        match ask() {
            // A question that changes nothing can be put to the next daemon.
            Err(failure)
                if failure.code == "daemon-gone"
                    && matches!(
                        request,
                        Request::Status | Request::Sandbox { .. } | Request::Journal { .. }
                    ) =>
            {
                ask()
            }
            answer => answer,
        }
    }

    pub fn status(&self, sandbox: &str) -> SandboxStatus {
        match self.ask(&Request::Sandbox { name: Some(name(sandbox)) }).unwrap() {
            Value::Sandbox(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub fn daemon(&self) -> Status {
        match self.ask(&Request::Status).unwrap() {
            Value::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Wait until the sandbox is ready in a launch that is no earlier than this number of restarts.
    pub fn ready_after(&self, sandbox: &str, restarts: u64) -> SandboxStatus {
        wait_until(LONG, "the sandbox to be ready again", || {
            let status = self.status(sandbox);
            if status.phase == "backoff" {
                // What a person in a hurry does.
                self.ask(&Request::Recover { name: name(sandbox) }).unwrap();
            }
            let new = status.gateway.as_ref().is_some_and(|gateway| gateway.restarts >= restarts);
            (status.phase == "ready" && new).then_some(status)
        })
    }

    pub fn ready(&self, sandbox: &str) -> SandboxStatus {
        self.ready_after(sandbox, 0)
    }

    pub fn exec(&self, sandbox: &str, script: &str) -> (String, i32) {
        let output = self.clawkeep(&[sandbox, "exec", "--", "/bin/sh", "-c", script]);
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.code().unwrap_or(-1))
    }

    pub fn log(&self, sandbox: &str) -> String {
        let path = self.home.sandbox(&name(sandbox)).run().join(clawkeep_isolation::LOG);
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The sandbox's home, as the host sees it.
    pub fn files(&self, sandbox: &str) -> PathBuf {
        self.home.sandbox(&name(sandbox)).home()
    }

    /// A directory with the fake gateway in it, as a bundle.
    pub fn fake_bundle(&self) -> PathBuf {
        let dir = self.scratch().join("bundle");
        if !dir.exists() {
            std::fs::create_dir(&dir).unwrap();
            std::fs::copy(testkit::fake::gateway(), dir.join("fake-gateway")).unwrap();
        }
        dir
    }

    /// A sandbox whose agent is the fake gateway, with its configuration and safe mode, guarded like the real one.
    pub fn create_fake(&self, sandbox: &str, args: &[&str]) -> SandboxStatus {
        self.make_fake(sandbox, args, true);
        self.ready(sandbox)
    }

    /// The same within limits.
    pub fn create_fake_within(&self, sandbox: &str, args: &[&str], limits: Limits) -> SandboxStatus {
        self.make_within(sandbox, args, true, limits);
        self.ready(sandbox)
    }

    /// The same, with or without a safe mode, and without waiting for it.
    pub fn make_fake(&self, sandbox: &str, args: &[&str], safe_mode: bool) {
        self.make_within(sandbox, args, safe_mode, Limits::default());
    }

    fn make_within(&self, sandbox: &str, args: &[&str], safe_mode: bool, limits: Limits) {
        self.ask(&self.fake(sandbox, args, safe_mode, limits)).unwrap();
        self.ask(&Request::Onboarded { name: name(sandbox) }).unwrap();
    }

    /// A sandbox whose agent is a shell script, which is not asked how it is.
    pub fn make_script(&self, sandbox: &str, script: &str) {
        let Request::Create(mut create) = self.fake(sandbox, &[], false, Limits::default()) else {
            panic!("another request")
        };
        create.agent = AgentChoice::Command {
            argv: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            health_url: None,
            config: None,
            safe_mode: false,
            node_guards: false,
            bundle: None,
            env: Default::default(),
        };
        self.ask(&Request::Create(create)).unwrap();
    }

    /// The request for it.
    pub fn fake(&self, sandbox: &str, args: &[&str], safe_mode: bool, limits: Limits) -> Request {
        let argv = ["/opt/clawkeep/agent/fake-gateway"].iter().chain(args).map(|a| (*a).to_owned()).collect();
        let agent = AgentChoice::Command {
            argv,
            health_url: Some("http://127.0.0.1:18789/readyz".into()),
            config: Some(CONFIG.into()),
            safe_mode,
            node_guards: true,
            bundle: Some(self.fake_bundle()),
            env: Default::default(),
        };
        // Its own port, out of the range that other tests choose from: a killed daemon lets go of its port, and
        // who takes it then must not get this test's orders.
        let dashboard_port = Some(testkit::free_port());
        let create = Create {
            name: name(sandbox),
            agent,
            route: None,
            strict: false,
            tier: Default::default(),
            settle_secs: Some(1),
            dashboard_port,
            limits,
            image: None,
            mounts: vec![],
            policy: Default::default(),
        };
        Request::Create(Box::new(create))
    }

    /// As after a power cut and a boot: the daemon and everything in the sandboxes gone, only the state
    /// directory is left.
    pub fn lose_power(&self) {
        let status = self.daemon();
        let gateways = status.sandboxes.iter().filter_map(|sandbox| sandbox.gateway.as_ref());
        let gateways: Vec<_> =
            gateways.filter_map(|gateway| testkit::processes::process(gateway.pid)).collect();
        let daemon = Handle::of(status.daemon.pid.cast_signed()).expect("the daemon runs");
        let parent = Handle::of(daemon.process.parent).expect("the daemon's parent runs");
        assert!(parent.kill() && daemon.kill());
        assert!(parent.ends_within(LONG) && daemon.ends_within(LONG));
        for gateway in gateways {
            // Its sandbox's first process; with it all of them go.
            let init = Handle::of(gateway.parent).expect("the sandbox runs");
            assert!(init.kill() && init.ends_within(LONG));
        }
    }

    /// What every start of the fake gateway was given.
    pub fn launches(&self, sandbox: &str) -> Vec<Launch> {
        testkit::fake::launches(&self.files(sandbox).join("fake-report.jsonl"))
    }

    /// The events of a sandbox in the journal, oldest first.
    pub fn events(&self, sandbox: &str) -> Vec<clawkeep_store::Event> {
        self.events_of(Some(name(sandbox)))
    }

    /// Those of all, and of none.
    pub fn events_of_all(&self) -> Vec<clawkeep_store::Event> {
        self.events_of(None)
    }

    /// From the daemon, which alone has the database.
    fn events_of(&self, sandbox: Option<SandboxName>) -> Vec<clawkeep_store::Event> {
        let mut events: Vec<clawkeep_store::Event> = Vec::new();
        loop {
            let span = Span::After(events.last().map_or(0, |event| event.seq));
            let request = Request::Journal { sandbox: sandbox.clone(), span, limit: usize::MAX };
            let Value::Journal(page) = self.ask(&request).unwrap() else { panic!("another answer") };
            events.extend(page.events);
            if !page.more {
                return events;
            }
        }
    }

    /// The daemon's parent: found as the parent of the daemon.
    pub fn parent_of(&self, pid: u32) -> i32 {
        testkit::processes::process(pid as i32).expect("the process runs").parent
    }
}

pub fn kill9(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Ok(Some(mut client)) = clawkeep_daemon::connect(self.home.root())
            && let Ok(Value::Status(status)) = client.ask(&Request::Status, |_| {})
        {
            for sandbox in &status.sandboxes {
                let destroyed = self.ask(&Request::Destroy { name: sandbox.name.clone() });
                if !std::thread::panicking() {
                    destroyed.unwrap();
                }
            }
            let _ = self.ask(&Request::Shutdown);
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.home.run().join("daemon.log")).unwrap_or_default();
            let from = log.len().saturating_sub(6_000);
            eprintln!("--- daemon.log\n{}", log.get(from..).unwrap_or(&log));
        } else {
            self.leftovers.take().unwrap().assert_none_new(LONG);
        }
    }
}
