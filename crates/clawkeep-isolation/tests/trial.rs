//! What can be made here, piece by piece; and the error number where it cannot.

mod support;

use std::path::Path;
use std::process::Command;

use clawkeep_isolation::{Piece, Trials, trials};
use testkit::{Outcome, Reexec};

/// The ids of no sandbox of another test.
const SLOT: u32 = 30_000;

#[test]
fn every_piece_can_be_made_where_sandboxes_can() {
    let made: Trials = Piece::ALL.map(|piece| (piece, 0)).into();
    assert_eq!(trials(support::program(), SLOT).unwrap(), made);
    assert!(trials(Path::new("/bin/true"), SLOT).is_err(), "it said nothing");
}

#[test]
fn an_ordinary_user_can_make_every_piece_too() {
    if Reexec::of("an_ordinary_user_can_make_every_piece_too").user(12_345).run() == Outcome::Inside {
        let made: Trials = Piece::ALL.map(|piece| (piece, 0)).into();
        assert_eq!(trials(support::program(), SLOT).unwrap(), made);
    }
}

/// The trials after this command, in a user and a mount namespace of their own.
fn below(command: &str) -> Option<Trials> {
    let script = format!(r#"{command} && exec "$0" {} {SLOT}"#, clawkeep_isolation::TRIAL_COMMAND);
    let flags = ["--user", "--map-root-user", "--mount", "--", "sh", "-c", &script];
    let output = Command::new("unshare").args(flags).arg(support::program()).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

#[test]
fn what_is_switched_off_gives_its_error_number() {
    let Some(none) = below("echo 0 > /proc/sys/user/max_user_namespaces") else {
        eprintln!(
            "SKIPPED: what_is_switched_off_gives_its_error_number needs unshare(1) and user namespaces"
        );
        return;
    };
    assert!(none.values().all(|errno| *errno == libc::ENOSPC), "{none:?}");
    let no_net = below("echo 0 > /proc/sys/user/max_net_namespaces").unwrap();
    assert_eq!((no_net[&Piece::User], no_net[&Piece::Mnt], no_net[&Piece::Net]), (0, 0, libc::ENOSPC));
    // Root of a namespace that has one id cannot give away a range.
    assert_eq!(no_net[&Piece::Ids], libc::EPERM);
    // As in a container, whose /proc has parts hidden: a new one would show them.
    let masked = below("mount -t tmpfs none /proc/tty").unwrap();
    assert_eq!((masked[&Piece::Tmpfs], masked[&Piece::Proc]), (0, libc::EPERM));
}
