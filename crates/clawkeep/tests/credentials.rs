//! Credentials from the command line to the disk: values come in, and nothing ever comes out.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use support::Installation;

const VALUE: &str = "sk-test-4711-first";
const OTHER: &str = "sk-test-4712-other";

/// Run it with this on standard input; its status and everything that it said.
fn run(installation: &Installation, args: &[&str], input: &str) -> (i32, String) {
    let mut command = installation.command(args);
    command.env("CLAWKEEP_TEST_VALUE", OTHER);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for value in [VALUE, OTHER] {
        assert!(!text.contains(value), "{args:?}: {text}");
    }
    (output.status.code().unwrap_or(-1), text)
}

fn list(installation: &Installation) -> serde_json::Value {
    let (status, text) = run(installation, &["credentials", "list", "--json"], "");
    assert_eq!(status, 0, "{text}");
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["credentials"].take()
}

/// Whether a file below has these bytes in it.
fn is_found(text: &str, below: &Path) -> bool {
    std::fs::read_dir(below).unwrap().flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => is_found(text, &path),
            kind if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                bytes.windows(text.len()).any(|window| window == text.as_bytes())
            }
            _ => false,
        }
    })
}

#[test]
fn values_come_in_and_only_names_come_out() {
    let installation = Installation::new();
    let run = |args: &[&str], input: &str| run(&installation, &[&["credentials"], args].concat(), input);
    let (status, text) = run(&["add", "GH"], VALUE);
    assert!(status == 1 && text.starts_with("error[host-missing]: "), "{text}");
    let (status, text) = run(&["add", "GH", "--host", "api.github.com", "--sandbox", "nobody"], VALUE);
    assert!(status == 1 && text.starts_with("error[no-such-sandbox]: "), "{text}");
    let (status, text) = run(&["add", "GH", "--host", "api.github.com"], "two\nlines-of-text");
    assert!(status == 1 && text.starts_with("error[bad-value]: ") && !text.contains("lines-of"), "{text}");
    assert_eq!(list(&installation), serde_json::json!([]));

    let wanted = (
        0,
        "GH is set: every sandbox may send clawkeep:secret:GH to api.github.com, b.example:8443\n".into(),
    );
    let hosts = ["--host", "API.github.com.", "--host", "b.example:8443"];
    assert_eq!(run(&[&["add", "GH"], &hosts[..]].concat(), &format!("{VALUE}\n")), wanted);
    // Another value for the same hosts.
    assert_eq!(run(&["add", "GH", "--from-env", "CLAWKEEP_TEST_VALUE"], ""), wanted);
    let one = list(&installation)[0].take();
    assert_eq!((&one["source"], &one["state"]), (&"variable CLAWKEEP_TEST_VALUE".into(), &"set".into()));
    assert!(one["set_at"].is_string());

    // A reset keeps the hosts.
    let (status, text) = run(&["reset", "GH"], "");
    assert!(status == 0 && text.contains("clawkeep credentials add GH"), "{text}");
    let one = list(&installation)[0].take();
    assert_eq!((&one["state"], &one["hosts"][1]), (&"empty".into(), &"b.example:8443".into()));
    assert_eq!(run(&["add", "GH"], VALUE), wanted);

    // Nothing of it is to be read in the whole home, the journal and the daemon's log among it.
    assert!(is_found("credential-set", installation.home.root()), "the search is blind");
    for value in [VALUE, OTHER] {
        assert!(!is_found(value, installation.home.root()), "{value}");
    }

    // Its key is lost: it is told, and set again.
    std::fs::remove_file(installation.home.root().join("secrets.key")).unwrap();
    assert_eq!(list(&installation)[0]["state"], "unreadable");
    let (status, text) = run(&["reset", "GH"], "");
    assert!(status == 1 && text.contains("sealed by a key that is gone"), "{text}");
    assert_eq!(run(&[&["add", "GH"], &hosts[..]].concat(), VALUE), wanted);

    assert_eq!(run(&["remove", "GH"], ""), (0, "GH is forgotten\n".into()));
    let (status, text) = run(&["remove", "GH"], "");
    assert!(status == 1 && text.starts_with("error[no-such-credential]: "), "{text}");
}

#[test]
fn a_command_is_run_by_the_daemon_without_a_shell() {
    let installation = Installation::new();
    let run = |args: &[&str]| run(&installation, &[&["credentials"], args].concat(), "");
    let command = format!("printf %s '{VALUE}'");
    let (status, text) = run(&["add", "P", "--host", "a.example", "--from-command", &command]);
    assert!(status == 0 && text.starts_with("P is set: "), "{text}");
    let one = list(&installation)[0].take();
    assert_eq!((&one["source"], &one["state"]), (&"command".into(), &"set".into()));
    let expanded = format!("printf %s $(echo {VALUE})");
    let (status, text) = run(&["add", "P", "--from-command", &expanded]);
    assert!(status == 0, "what a shell would have expanded is a value as it is: {text}");
    let (status, text) = run(&["add", "P", "--from-command", "false"]);
    assert_eq!(status, 1);
    assert!(
        text.starts_with("error[command-failed]: P is set, but the command of the credential P failed"),
        "{text}"
    );
    assert_eq!(run(&["reset", "P"]), (0, "P is asked of its command again\n".into()));
}

#[test]
fn a_destroyed_sandbox_takes_its_own_credentials_along() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    for args in [&["OURS", "--sandbox", "box"][..], &["ALL"]] {
        let (status, text) =
            run(&installation, &[&["credentials", "add", "--host", "a.example"], args].concat(), VALUE);
        assert_eq!(status, 0, "{text}");
    }
    assert_eq!(list(&installation).as_array().unwrap().len(), 2);
    assert_eq!(run(&installation, &["box", "destroy", "--yes"], "").0, 0);
    let left = list(&installation);
    assert!(left.as_array().unwrap().len() == 1 && left[0]["name"] == "ALL", "{left}");
}
