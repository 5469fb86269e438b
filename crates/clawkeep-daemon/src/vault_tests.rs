use clawkeep_credentials::Binding;
use clawkeep_store::{Credential, Home, Secrets};

use super::*;

struct World {
    _temp: tempfile::TempDir,
    vault: Vault,
    scratch: std::path::PathBuf,
}

fn world() -> World {
    let temp = tempfile::tempdir().unwrap();
    let home = Home::open(&temp.path().join("home")).unwrap();
    let vault = Vault::new(Credentials::new(&Secrets::new(&home)));
    World { vault, scratch: temp.path().to_owned(), _temp: temp }
}

impl World {
    fn put(&self, name: &str, source: Source, value: Option<&str>) {
        let binding = Binding { hosts: vec!["api.example".parse().unwrap()], sandbox: None };
        let credential = Credential { binding, source, set_at: Some(1) };
        let value = value.map(Secret::new);
        self.vault.credentials.put(&name.parse().unwrap(), &credential, value.as_ref()).unwrap();
    }

    fn shell(&self, name: &str, ttl: u64, script: &str) {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        self.put(name, Source::Command { argv, ttl }, None);
    }

    async fn fill(&self, name: &str, host: &str) -> Result<String, String> {
        let value = format!("Bearer clawkeep:secret:{name}");
        let placeholder = Placeholder::find("authorization", value.as_bytes()).unwrap().unwrap();
        let toward = Toward { host, port: 443, inspected: true };
        let filled = self.vault.fill(&"box".parse().unwrap(), &placeholder, toward).await;
        filled
            .map(|filled| String::from_utf8_lossy(filled.expose()).into_owned())
            .map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn a_stored_value_is_given_to_its_host_alone() {
    let world = world();
    world.put("K", Source::Typed, Some("hunter2-hunter2"));
    world.put("E", Source::Typed, None);
    assert_eq!(world.fill("K", "api.example").await.unwrap(), "Bearer hunter2-hunter2");
    assert_eq!(
        world.fill("K", "evil.example").await.unwrap_err(),
        "the credential K is not bound to evil.example:443"
    );
    assert_eq!(
        world.fill("X", "api.example").await.unwrap_err(),
        "there is no credential X for this sandbox"
    );
    assert!(world.fill("E", "api.example").await.unwrap_err().contains("has no value"));
    assert_eq!(redaction().text("a hunter2-hunter2 b"), "a [redacted] b");
    std::fs::remove_file(world.scratch.join("home/secrets.key")).unwrap();
    assert!(world.fill("K", "api.example").await.unwrap_err().contains("cannot be read"));
}

#[tokio::test]
async fn a_command_is_run_when_it_is_needed_and_not_for_another_host() {
    let world = world();
    let runs = world.scratch.join("runs");
    world.shell("K", 3600, &format!("echo run >> {}; echo value-of-today; echo hunter2 >&2", runs.display()));
    assert!(world.fill("K", "evil.example").await.is_err());
    assert!(!runs.exists());
    for _ in 0..3 {
        assert_eq!(world.fill("K", "api.example").await.unwrap(), "Bearer value-of-today");
    }
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
    assert_eq!(redaction().text("value-of-today!"), "[redacted]!");
    world.vault.forget(&"K".parse().unwrap());
    world.vault.check(&"K".parse().unwrap()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\nrun\n");
}

#[tokio::test]
async fn a_command_that_gives_no_value_is_told_by_its_name_alone() {
    let world = world();
    for (script, why) in [
        ("echo hunter2-hunter2; exit 3", "failed"),
        ("echo hunter2-hunter2 >&2; exit 1", "failed"),
        ("true", "gives is empty"),
        ("echo short", "gives is shorter than 8 characters"),
        ("echo hunter2-; echo hunter2", "gives is not one line of plain text"),
        ("printf ' hunter2-hunter2'", "gives has spaces around it"),
        ("exec yes hunter2", "gives more than a value can have"),
    ] {
        world.shell("K", 60, script);
        world.vault.forget(&"K".parse().unwrap());
        let said = world.fill("K", "api.example").await.unwrap_err();
        assert!(said.ends_with(&format!("the command of the credential K {why}")), "{said}");
    }
    world.put("M", Source::Command { argv: vec!["/nonexistent".into()], ttl: 1 }, None);
    assert!(world.fill("M", "api.example").await.unwrap_err().ends_with("cannot be started"));
}

#[tokio::test]
async fn a_command_that_fails_is_not_run_for_each_request() {
    let world = world();
    let runs = world.scratch.join("runs");
    world.shell("K", 60, &format!("echo run >> {}; exit 1", runs.display()));
    for _ in 0..3 {
        assert!(world.fill("K", "api.example").await.is_err());
    }
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
}

#[tokio::test]
async fn one_command_waits_for_no_other_and_gives_a_new_credential_nothing() {
    let world = world();
    let (begun, end) = (world.scratch.join("begun"), world.scratch.join("end"));
    let slow = format!(
        "touch {}; while ! [ -e {} ]; do sleep 0.02; done; echo value-of-old",
        begun.display(),
        end.display()
    );
    world.shell("SLOW", 3600, &slow);
    world.shell("FAST", 3600, "echo value-of-fast");
    let (old, ()) = tokio::join!(world.fill("SLOW", "api.example"), async {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.fill("FAST", "api.example").await.unwrap(), "Bearer value-of-fast");
        world.shell("SLOW", 3600, "echo value-of-new");
        world.vault.forget(&"SLOW".parse().unwrap());
        std::fs::write(&end, "").unwrap();
    });
    assert_eq!(old.unwrap(), "Bearer value-of-old");
    assert_eq!(world.fill("SLOW", "api.example").await.unwrap(), "Bearer value-of-new");
}

#[tokio::test]
async fn an_agent_that_hangs_up_neither_ends_a_command_nor_has_it_run_again() {
    let world = world();
    let (runs, end) = (world.scratch.join("runs"), world.scratch.join("end"));
    let (runs_at, end_at) = (runs.display(), end.display());
    let slow =
        format!("echo run >> {runs_at}; while ! [ -e {end_at} ]; do sleep 0.02; done; echo value-of-one");
    world.shell("K", 3600, &slow);
    for _ in 0..3 {
        tokio::select! {
            _ = world.fill("K", "api.example") => panic!("it has not ended"),
            () = async {
                while !runs.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => {}
        }
    }
    std::fs::write(&end, "").unwrap();
    assert_eq!(world.fill("K", "api.example").await.unwrap(), "Bearer value-of-one");
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
}
