//! Faults at random moments on the real OpenClaw: it always comes back, guarded. `just chaos`.
//!
//! `CLAWKEEP_SEED` replays the faults of a run, `CLAWKEEP_CHAOS_ROUNDS` sets their number.

#[path = "chaos/mutate.rs"]
mod mutate;
mod support;

use std::time::{Duration, Instant};

use clawkeep_daemon::api::{Request, SandboxStatus};
use support::{Installation, name};
use testkit::{Handle, Processes, Rng, Seed, wait_until};

const BOX: &str = "my-assistant";
const CONFIG: &str = ".openclaw/openclaw.json";

/// Two starts that time out, and all that comes after.
const BACK: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
enum Fault {
    /// SIGKILL to the gateway.
    Kill,
    /// The same twice, so long after another, into its start.
    KillTwice(Duration),
    /// SIGSTOP to the gateway: it is there and does nothing.
    Stop,
    /// By the agent itself: everything that it may kill.
    KillAllInside,
    /// SIGKILL to the sandbox's first process: everything ephemeral is gone.
    KillInit,
    /// Everything in `/tmp` removed, then the gateway killed.
    Wipe,
    /// A guard in `/tmp` made into something else, then the gateway killed.
    Tamper(&'static str),
    /// SIGKILL to the daemon, in the middle of what follows a killed gateway.
    KillDaemonToo(Duration),
    /// The lock that keeps the next one from starting.
    Lock(&'static str),
    /// Another configuration, then the gateway killed.
    Config(Vec<u8>, String),
}

const TAMPERINGS: [&str; 4] = [
    "rm -f $F",
    "ln -sfn /sandbox/evil.js $F",
    "rm -rf $F; mkdir -p $F/deep",
    "rm -rf $F; echo 'require(\"fs\").writeFileSync(\"/sandbox/pwned\",\"\")' > $F; chmod 0666 $F",
];

const LOCKS: [&str; 4] = [
    r#"for f in $D/gateway.*.lock; do printf '{"pid":' > $f; done"#,
    r#"for f in $D/gateway.*.lock; do printf '{"pid":1,"createdAt":"x","configPath":"/x","startTime":1}' > $f; done"#,
    "rm -rf $D; ln -s /etc $D",
    "rm -rf $D; echo > $D",
];

struct Chaos {
    installation: Installation,
    /// The last configuration that is surely healthy.
    healthy: Vec<u8>,
}

impl Chaos {
    fn new() -> Self {
        let installation = Installation::new();
        let onboard = ["onboard", "--non-interactive", "--settle", "2"];
        let output =
            installation.command(&onboard).env("NEMOCLAW_ACCEPT_THIRD_PARTY_SOFTWARE", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let healthy = std::fs::read(installation.files(BOX).join(CONFIG)).unwrap();
        Self { installation, healthy }
    }

    fn draw(&self, rng: &mut Rng) -> Fault {
        match rng.within(0..100) {
            0..10 => Fault::Kill,
            10..22 => Fault::KillTwice(Duration::from_millis(rng.within(0..9_000))),
            22..27 => Fault::Stop,
            27..35 => Fault::KillAllInside,
            35..45 => Fault::KillInit,
            45..52 => Fault::Wipe,
            52..62 => Fault::Tamper(rng.pick::<&str>(&TAMPERINGS)),
            62..70 => Fault::KillDaemonToo(Duration::from_millis(rng.within(0..3_000))),
            70..78 => Fault::Lock(rng.pick::<&str>(&LOCKS)),
            _ => self.draw_config(rng),
        }
    }

    fn draw_config(&self, rng: &mut Rng) -> Fault {
        let (bytes, done) = mutate::mutate(&self.healthy, rng);
        Fault::Config(bytes, done)
    }

    fn gateway(&self) -> Handle {
        let pid = self.installation.status(BOX).gateway.expect("a gateway").pid;
        Handle::of(pid).expect("a running gateway")
    }

    fn exec(&self, script: &str) {
        self.installation.exec(BOX, script);
    }

    fn commit(&self, fault: &Fault) {
        let gateway = self.gateway();
        let kill = || assert!(gateway.kill(), "the gateway was to be there");
        match fault {
            Fault::Kill => kill(),
            Fault::KillTwice(after) => {
                kill();
                testkit::pause(*after);
                if let Some(next) = self.installation.status(BOX).gateway
                    && let Some(next) = Handle::of(next.pid)
                {
                    next.kill();
                }
            }
            Fault::Stop => {
                let pid = rustix::process::Pid::from_raw(gateway.process.pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
            }
            Fault::KillAllInside => self.exec("kill -9 -1"),
            Fault::KillInit => {
                let init = Handle::of(gateway.process.parent).expect("an init");
                init.kill();
            }
            Fault::Wipe => {
                self.exec(
                    "find /tmp -mindepth 1 -maxdepth 1 ! -name gateway.log -exec rm -rf {} +; kill -9 -1",
                );
            }
            Fault::Tamper(how) => {
                let evil = self.installation.files(BOX).join("evil.js");
                std::fs::write(evil, "require('fs').writeFileSync('/sandbox/pwned','')").unwrap();
                self.exec(&format!("F=/tmp/nemoclaw-ciao-network-guard.js; {how}; kill -9 -1"));
            }
            Fault::KillDaemonToo(after) => {
                kill();
                testkit::pause(*after);
                if let Some(daemon) = Handle::of(self.installation.daemon().daemon.pid.cast_signed()) {
                    daemon.kill();
                }
            }
            Fault::Lock(how) => {
                self.exec(&format!("D=/sandbox/.openclaw/tmp/openclaw-998; {how}"));
                kill();
            }
            Fault::Config(bytes, _) => {
                std::fs::write(self.installation.files(BOX).join(CONFIG), bytes).unwrap();
                kill();
            }
        }
    }

    /// Until it serves in another launch than that of `before`, guarded, and has proven itself.
    fn back(&self, before: &SandboxStatus, fault: &Fault) -> SandboxStatus {
        let started = Instant::now();
        let mut last = String::new();
        let status = wait_until(BACK * 2, "it to be back", || {
            assert!(started.elapsed() < BACK, "{fault:?}: not back: {last}\n{}", self.daemon_log());
            let status = self.installation.status(BOX);
            last =
                format!("{} {} {:?} {:?}", status.phase, status.rung, status.gateway, status.last_incident);
            assert_ne!(status.phase, "held", "{fault:?}: {:?}", status.held);
            if status.phase == "backoff" {
                // What a person in a hurry does. It keeps what is known of the failures.
                self.installation.ask(&Request::Recover { name: name(BOX) }).unwrap();
            }
            let pid = |status: &SandboxStatus| status.gateway.as_ref().map(|gateway| gateway.pid);
            let well = status.guards.iter().all(|guard| guard.state == "verified");
            (status.phase == "ready" && well && status.rung == "respawn" && pid(&status) != pid(before))
                .then_some(status)
        });
        assert_eq!(status.receipt.as_ref().expect("a receipt").caps, "0x0");
        assert!(!self.installation.files(BOX).join("pwned").exists(), "something hostile was executed");
        let processes = Processes::snapshot();
        let gateways: Vec<_> = processes
            .descendants()
            .filter(|process| process.command.starts_with("openclaw") && process.state != 'Z')
            .filter(|process| {
                processes.get(process.parent).is_some_and(|parent| parent.command == "clawkeep-init")
            })
            .map(|process| process.pid)
            .collect();
        assert_eq!(gateways, [status.gateway.as_ref().unwrap().pid], "one gateway");
        status
    }

    fn daemon_log(&self) -> String {
        let log =
            std::fs::read_to_string(self.installation.home.run().join("daemon.log")).unwrap_or_default();
        log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn rounds(&mut self, rounds: u64, rng: &mut Rng, draw: impl Fn(&Self, &mut Rng) -> Fault) {
        let mut status = self.installation.ready(BOX);
        for round in 1..=rounds {
            let fault = draw(self, rng);
            let begun = Instant::now();
            self.commit(&fault);
            status = self.back(&status, &fault);
            let what = match &fault {
                Fault::Config(_, done) => format!("Config: {done}"),
                other => format!("{other:?}"),
            };
            eprintln!(
                "round {round}: {what}: back in {:.1?}{}",
                begun.elapsed(),
                if status.safe_mode { ", safe mode" } else { "" }
            );
            // What it lives with now may be a harmless mutation: the next ones are made of the first all the same.
            if let Fault::Config(..) = fault {
                std::fs::write(self.installation.files(BOX).join(CONFIG), &self.healthy).unwrap();
            }
        }
        assert!(self.installation.clawkeep(&[BOX, "status"]).status.success());
        assert!(self.installation.home.sandbox(&name(BOX)).root().exists());
    }
}

fn rounds_or(default: u64) -> u64 {
    std::env::var("CLAWKEEP_CHAOS_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

#[test]
fn fifty_rounds_of_faults_on_the_real_gateway() {
    let mut rng = Seed::from_env_or_random().rng();
    Chaos::new().rounds(rounds_or(50), &mut rng, Chaos::draw);
}

/// The long form of what the rounds above do here and there. `just chaos` runs it.
#[test]
#[ignore = "an hour"]
fn two_hundred_mutated_configurations() {
    let mut rng = Seed::from_env_or_random().rng();
    Chaos::new().rounds(rounds_or(200), &mut rng, Chaos::draw_config);
}
