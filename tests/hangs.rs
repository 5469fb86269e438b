//! A gateway that runs and does not serve is found soon and replaced; one that only had no time is left alone.

#[path = "support/load.rs"]
mod load;
mod support;

use std::time::{Duration, Instant};

use clawkeep_daemon::api::{AgentChoice, Create, Request, SandboxStatus};
use load::{Load, soak_time};
use rustix::process::{Pid, Signal, kill_process};
use support::{Installation, LONG, name};
use testkit::{pause, wait_until};

/// A fake gateway that is asked as often as this address says.
fn create(installation: &Installation, sandbox: &str, health: &str) -> SandboxStatus {
    let agent = AgentChoice::Command {
        argv: vec!["/opt/clawkeep/agent/fake-gateway".into()],
        health_url: Some(health.into()),
        config: None,
        safe_mode: false,
        node_guards: true,
        bundle: Some(installation.fake_bundle()),
        env: Default::default(),
    };
    let dashboard_port = Some(testkit::free_port());
    let create = Create {
        name: name(sandbox),
        agent,
        route: None,
        strict: false,
        tier: Default::default(),
        dashboard_port,
        settle_secs: Some(1),
        limits: Default::default(),
        image: None,
        mounts: vec![],
        policy: Default::default(),
    };
    installation.ask(&Request::Create(Box::new(create))).unwrap();
    installation.ask(&Request::Onboarded { name: name(sandbox) }).unwrap();
    installation.ready(sandbox)
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn order(status: &SandboxStatus, order: &str) {
    let stream = std::net::TcpStream::connect(("127.0.0.1", status.dashboard_port.unwrap())).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(testkit::http::post(stream, &format!("/fake/{order}"), b"").unwrap().status, 200);
}

/// What the daemon wrote down of this kind.
fn records(installation: &Installation, kind: &str) -> Vec<String> {
    let log = std::fs::read_to_string(installation.home.run().join("daemon.log")).unwrap();
    let of_kind = log.lines().filter(|line| line.contains(&format!(": {kind}: ")));
    of_kind.map(str::to_owned).collect()
}

#[test]
fn every_hang_is_found_within_two_periods() {
    const PERIOD: Duration = Duration::from_secs(2);
    let installation = Installation::new();
    let mut status = create(&installation, "box", "http://127.0.0.1:18789/readyz#every=2s");
    let hangs = ["SIGSTOP", "hang", "spin", "mute", "deaf", "slow:600000"];
    for (found_before, hang) in hangs.into_iter().enumerate() {
        wait_until(LONG, "it to have settled", || {
            (records(&installation, "settled").len() > found_before).then_some(())
        });
        let starved_before = records(&installation, "starved").len();
        let began = Instant::now();
        match hang {
            "SIGSTOP" => signal(status.gateway.as_ref().unwrap().pid, Signal::STOP),
            hang => order(&status, hang),
        }
        wait_until(LONG, &format!("{hang} to be found"), || {
            (records(&installation, "deaf").len() > found_before).then_some(())
        });
        let took = began.elapsed();
        // Where other tests took its time as well, it was given more, and that is written down.
        let starved = records(&installation, "starved").split_off(starved_before);
        let periods = 2 + u32::try_from(starved.len()).unwrap();
        eprintln!("{hang}: found in {took:.1?}, {} excuses", starved.len());
        assert!(periods <= 5, "{hang}: {starved:?}");
        assert!(took <= PERIOD * periods + PERIOD / 2, "{hang}: {took:?} {starved:?}");
        status = installation.ready_after("box", found_before as u64 + 1);
    }
    let found = records(&installation, "deaf");
    assert!(found[0].contains("it is stopped"), "{found:?}");
    assert_eq!(installation.launches("box").len(), hangs.len() + 1, "one start for each hang");
}

/// A minute of everything that is no hang: no time on any processor, a daemon that is itself stopped for longer
/// than a period, answers that come late.
#[test]
fn what_is_no_hang_kills_nothing() {
    let installation = Installation::new();
    let before = create(&installation, "box", "http://127.0.0.1:18789/readyz#every=2s");
    order(&before, "slow:900");
    let daemon = installation.daemon().daemon.pid as i32;
    let load = Load::full();
    let until = Instant::now() + Duration::from_secs(60);
    let mut round = 0;
    while Instant::now() < until {
        pause(Duration::from_millis(1_700 + 300 * (round % 7)));
        signal(daemon, Signal::STOP);
        // Shorter than an answer takes, as long as a period, longer than one.
        pause(Duration::from_millis([500, 2_000, 5_000][round as usize % 3]));
        signal(daemon, Signal::CONT);
        round += 1;
    }
    let after = installation.ready("box");
    let told = [records(&installation, "starved"), records(&installation, "missed")];
    eprintln!("{round} rounds; {told:?}");
    assert_eq!(after.gateway.as_ref().unwrap().pid, before.gateway.as_ref().unwrap().pid, "{told:?}");
    assert_eq!(installation.launches("box").len(), 1);
    assert_eq!(records(&installation, "deaf"), Vec::<String>::new());
    // And it is still looked after, on the same busy machine.
    signal(after.gateway.as_ref().unwrap().pid, Signal::STOP);
    installation.ready_after("box", 1);
    drop(load);
    assert_eq!(records(&installation, "deaf").len(), 1);
}

/// A start may take a minute. If the daemon was stopped until that was over, it looks before it concludes.
/// Not in the fast path: `just soak`.
#[test]
#[ignore = "more than a minute"]
fn soak_a_daemon_that_was_stopped_during_a_start_kills_nothing() {
    let installation = Installation::new();
    installation.make_fake("box", &["--warmup-ms", "20000"], false);
    let pid = wait_until(LONG, "the gateway to be there", || {
        let status = installation.status("box");
        assert_ne!(status.phase, "ready");
        status.gateway.map(|gateway| gateway.pid)
    });
    let daemon = installation.daemon().daemon.pid as i32;
    signal(daemon, Signal::STOP);
    pause(Duration::from_secs(75));
    signal(daemon, Signal::CONT);
    assert_eq!(installation.ready("box").gateway.unwrap().pid, pid);
    assert_eq!(records(&installation, "start-timeout"), Vec::<String>::new());
}

/// Not in the fast path: `just soak`.
#[test]
#[ignore = "an hour"]
fn soak_at_full_load_without_a_false_alarm() {
    let installation = Installation::new();
    // At the usual pace, and at the quickest there is.
    let paces =
        [("usual", "http://127.0.0.1:18789/readyz"), ("quick", "http://127.0.0.1:18789/readyz#every=1s")];
    let before = paces.map(|(sandbox, health)| create(&installation, sandbox, health));
    let load = Load::full();
    let until = Instant::now() + soak_time();
    while Instant::now() < until {
        pause(Duration::from_secs(20));
        for (before, (sandbox, _)) in before.iter().zip(paces) {
            let after = installation.status(sandbox);
            let pid = |status: &SandboxStatus| status.gateway.as_ref().map(|gateway| gateway.pid);
            assert_eq!(pid(&after), pid(before), "{sandbox}: {:?}", after.last_incident);
            assert_eq!(after.phase, "ready", "{sandbox}");
        }
    }
    for kind in ["starved", "missed", "deaf", "canary-failed"] {
        eprintln!("{kind}: {}", records(&installation, kind).len());
    }
    assert_eq!(records(&installation, "deaf"), Vec::<String>::new());
    drop(load);
}
