//! The suite without any sandbox: what is meant to be held by one must then be found open, or it proves nothing.

use std::os::unix::fs::PermissionsExt as _;

use clawkeep_drill::{Canaries, Drill, Local, Outcome, Runtime, Scorecard, Settings, Traits, payload};

fn drill(only: Option<&str>) -> Scorecard {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("payload");
    std::fs::write(&path, payload()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut target = Local {
        enter: Vec::new(),
        payload: path.display().to_string(),
        traits: Traits { netlink: true, ..Traits::default() },
    };
    let canaries = Canaries::set(dir.path()).unwrap();
    let settings = Settings { only, recovery: true, progress: &mut |_, _| (), cancelled: &|| false };
    let about = Scorecard {
        schema: 1,
        target: "none".into(),
        version: String::new(),
        kernel: String::new(),
        at: String::new(),
        recovered: false,
        totals: Default::default(),
        attempts: Vec::new(),
    };
    Drill::run(&mut target, &canaries, settings, about).unwrap()
}

#[test]
fn without_walls_most_attempts_succeed() {
    let card = drill(None);
    let totals = card.totals;
    assert!(!card.passed() && !card.recovered);
    assert!(totals.open > 2 * totals.held && totals.open >= 80, "{totals:?}");
    let broken: Vec<_> = card.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Broken).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    // What would harm whoever has no sandbox around it, or others, was not tried.
    for id in ["kill-init", "fork-bomb", "truncate-file", "tcp-direct"] {
        let found = card.attempts.iter().find(|attempt| attempt.id == id).unwrap();
        assert_eq!(found.outcome, Outcome::NotRun, "{found:?}");
    }
}

#[test]
fn every_canary_sees_every_program_that_reaches_it() {
    for (id, canary, runtimes) in [
        (
            "tcp-host-loopback",
            "TCP listener",
            &[Runtime::Static, Runtime::Shell, Runtime::Python, Runtime::Node][..],
        ),
        ("udp-host-loopback", "UDP socket", &[Runtime::Static, Runtime::Python]),
        ("abstract-host-socket", "abstract socket", &[Runtime::Static, Runtime::Python]),
        ("host-file-write", "file", &[Runtime::Static]),
    ] {
        let card = drill(Some(id));
        assert_eq!(card.attempts.len(), 1, "{id}");
        for runtime in runtimes {
            let way = card.attempts[0].ways.iter().find(|way| way.runtime == *runtime).unwrap();
            assert_eq!(way.outcome, Outcome::Open, "{way:?}");
            assert!(way.reason.starts_with("reached: ") && way.reason.contains(canary), "{way:?}");
        }
    }
}
