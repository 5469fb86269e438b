//! A thousand rounds of random faults at random moments, on the fake gateway: not one launch without every
//! guard, not two gateways at once, nothing hostile executed, nothing left behind.
//!
//! `CLAWKEEP_SEED` replays the faults of a run, `CLAWKEEP_ROUNDS` sets their number.

#[path = "campaign/faults.rs"]
mod faults;
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clawkeep_daemon::api::Request;
use faults::{BOX, Fault, Saboteur, gateways, inits};
use support::{Installation, LONG, name};
use testkit::{Handle, Processes, Rng, Seed, fake, wait_until};

/// Rounds between two looks at every launch so far.
const CHECKPOINT: u64 = 100;

/// A round that takes longer is told of.
const SLOW: Duration = Duration::from_secs(3);

/// The running gateway: pid and start time.
type Identity = (i32, u64);

struct Campaign<'a> {
    installation: &'a Installation,
    saboteur: Saboteur<'a>,
    /// What the published files look like when nobody has touched them.
    intact: String,
    gateway: Identity,
    round: u64,
    faults: Vec<Fault>,
}

#[test]
fn a_thousand_rounds_of_faults_never_launch_one_unguarded() {
    let rounds = std::env::var("CLAWKEEP_ROUNDS").map_or(1_000, |rounds| rounds.parse().unwrap());
    let mut rng = Seed::from_env_or_random().rng();
    let installation = Installation::new();
    let status = installation.create_fake(BOX, &["--lock", "refuse"]);
    let (_, code) = installation.exec(BOX, "echo victim > /sandbox/victim");
    assert_eq!(code, 0);
    let saboteur = Saboteur::new(&installation, status.dashboard_port.unwrap());
    assert_eq!(saboteur.files.len(), status.guards.len() + 1, "{:?}", saboteur.files);
    let mut campaign = Campaign {
        installation: &installation,
        intact: look(&saboteur),
        saboteur,
        gateway: (0, 0),
        round: 0,
        faults: Vec::new(),
    };
    assert_eq!(campaign.intact.matches("444 1 regular file").count(), status.guards.len() + 1);
    campaign.gateway = campaign.settle(&mut rng);

    let started = Instant::now();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=rounds {
        campaign.round = round;
        campaign.faults = (0..rng.within(1..4)).map(|_| campaign.draw(&mut rng)).collect();
        for fault in &campaign.faults {
            let kind = format!("{fault:?}");
            *kinds.entry(kind.split([' ', '(']).next().unwrap().to_owned()).or_default() += 1;
        }
        let begun = Instant::now();
        campaign.play(&mut rng);
        if begun.elapsed() > SLOW {
            eprintln!("{campaign} took {:.1?}", begun.elapsed());
        }
        if round % CHECKPOINT == 0 || round == rounds {
            let launches = campaign.check();
            eprintln!("{round} rounds, {launches} launches, {:.1?}", started.elapsed());
        }
    }
    eprintln!("{kinds:?}");
}

impl Campaign<'_> {
    fn draw(&self, rng: &mut Rng) -> Fault {
        Fault::draw(rng, self.saboteur.files.len())
    }

    fn play(&mut self, rng: &mut Rng) {
        let before = self.gateway;
        for fault in self.faults.clone() {
            self.saboteur.commit(fault);
            if rng.percent(50) {
                testkit::pause(Duration::from_micros(rng.within(0..30_000)));
            }
        }
        self.gateway = self.settle(rng);
        if self.faults.iter().all(|fault| !fault.ends_the_gateway()) {
            assert_eq!(self.gateway, before, "{self}: the gateway was to go on");
        }
        // The dead that came to us because whoever would have buried them was killed.
        while matches!(rustix::process::wait(rustix::process::WaitOptions::NOHANG), Ok(Some(_))) {}
        let processes = Processes::snapshot();
        let pids: Vec<_> = gateways(&processes).collect();
        assert_eq!(pids, [self.gateway.0], "{self}: gateways");
        assert_eq!(inits(&processes).count(), 1, "{self}: sandboxes");
        let holders: Vec<_> = processes.descendants().filter(|process| process.command == "exe").collect();
        assert!(holders.is_empty(), "{self}: left by an earlier gateway: {holders:?}");
    }

    /// Wait until all is well: a gateway that is ready, answers, and is the last that was launched, and the
    /// published files as they should be.
    fn settle(&self, rng: &mut Rng) -> Identity {
        // Both end a wait. To start forgets the failures before it: once, so that some repairs begin small, and
        // not again, because it is the failures that make a repair go further.
        let mut fresh = rng.percent(50);
        let mut last = String::new();
        let started = Instant::now();
        wait_until(LONG * 2, "all to be well", || {
            assert!(started.elapsed() < LONG, "{self}: not well after {LONG:?}: {last}");
            let status = self.installation.status(BOX);
            last = format!("{} {:?} {:?}", status.phase, status.gateway, status.last_incident);
            match status.phase.as_str() {
                "backoff" => {
                    let name = name(BOX);
                    let fresh = std::mem::take(&mut fresh);
                    let hurry = if fresh { Request::Start { name } } else { Request::Recover { name } };
                    self.installation.ask(&hurry).unwrap();
                }
                "held" => panic!("{self}: {:?}", status.held),
                _ => {}
            }
            if status.phase != "ready" {
                return None;
            }
            let gateway = Handle::of(status.gateway?.pid)?.process;
            let launch = fake::last_launch(&self.report())?;
            if launch.start_time != gateway.start_time {
                last = format!("{gateway} is not the last that was launched: {}", launch.start_time);
                return None;
            }
            let stream = std::net::TcpStream::connect(("127.0.0.1", self.saboteur.port)).ok()?;
            stream.set_read_timeout(Some(LONG)).unwrap();
            if testkit::http::get(stream, "/readyz").ok()?.status != 200 {
                return None;
            }
            last = look(&self.saboteur);
            (last == self.intact).then_some((gateway.pid, gateway.start_time))
        })
    }

    fn report(&self) -> std::path::PathBuf {
        self.installation.files(BOX).join("fake-report.jsonl")
    }

    /// Look at every launch so far; their number.
    fn check(&self) -> usize {
        let guards = self.installation.status(BOX).guards;
        assert!(guards.iter().all(|guard| guard.state == "verified"), "{self}: {guards:?}");
        let wanted: Vec<_> = guards.iter().map(|guard| (guard.name.as_str(), guard.digest)).collect();
        let launches = self.installation.launches(BOX);
        for launch in &launches {
            assert!(launch.receipt, "{self}: a launch without a receipt: {launch:?}");
            assert!(launch.alone, "{self}: two gateways at once: {launch:?}");
            let loaded: Vec<_> =
                launch.guards.iter().map(|guard| (guard.name.as_str(), guard.digest)).collect();
            assert_eq!(loaded, wanted, "{self}: a launch with other guards");
        }
        let files = self.installation.files(BOX);
        assert!(!files.join("pwned").exists(), "{self}: something hostile was executed");
        assert_eq!(std::fs::read_to_string(files.join("victim")).unwrap(), "victim\n", "{self}");
        launches.len()
    }
}

/// Bytes, mode, links and kind of each published file.
fn look(saboteur: &Saboteur<'_>) -> String {
    let files = saboteur.files.join(" ");
    saboteur.in_tmp(&format!("sha256sum {files}; stat -c '%n %a %h %F' {files}")).unwrap_or_default()
}

impl std::fmt::Display for Campaign<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "round {} of {:?}", self.round, self.faults)
    }
}
