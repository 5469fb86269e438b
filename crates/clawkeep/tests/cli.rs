//! What the command line says without a daemon: its help, its refusals, and that looking makes nothing.

const NOWHERE: &str = "/nonexistent/clawkeep";

#[test]
fn says_what_it_says() {
    trycmd::TestCases::new().env("CLAWKEEP_HOME", NOWHERE).case("tests/cmd/*.trycmd").run();
}

fn clawkeep(home: &std::path::Path, args: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clawkeep"));
    command.args(args).env("CLAWKEEP_HOME", home).stdin(std::process::Stdio::null());
    command.output().unwrap()
}

#[test]
fn looking_makes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().join("state");
    for args in [&["status"][..], &["status", "--json"], &["list"], &["list", "--json"]] {
        let output = clawkeep(&home, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty());
    }
    assert_eq!(clawkeep(&home, &["events"]).status.code(), Some(0));
    for args in [
        &["box"][..],
        &["box", "logs"],
        &["box", "why"],
        &["why"],
        &["box", "events"],
        &["box", "connect"],
        &["box", "exec", "--", "true"],
        &["use", "box"],
    ] {
        let output = clawkeep(&home, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error[no-such-sandbox]: "), "{said}");
    }
    assert!(!home.exists());
}

#[test]
fn json_of_nothing_keeps_its_schema() {
    let temp = tempfile::tempdir().unwrap();
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&clawkeep(&temp.path().join("state"), args).stdout).unwrap()
    };
    assert_eq!(json(&["list", "--json"]), serde_json::json!({"schema": 1, "sandboxes": []}));
    assert_eq!(
        json(&["status", "--json"]),
        serde_json::json!({"schema": 1, "daemon": null, "sandboxes": []})
    );
}

#[test]
fn a_home_that_cannot_be_used_is_explained() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = clawkeep(&file, &["status"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("error[home-not-a-directory]: ") && said.contains("\n  next: "), "{said}");
    let output = clawkeep(std::path::Path::new("relative"), &["status"]);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error[home-not-absolute]: "));
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = clawkeep(std::path::Path::new(NOWHERE), &["completion", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("onboard") && script.contains("probe-only"));
        assert!(!script.contains("sandbox-init"));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_clawkeep"))
        .args(["completion", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
