//! What a user learns when something went wrong: the story of it, whether the daemon runs or not.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Output, Stdio};

use clawkeep_daemon::Client;
use clawkeep_daemon::api::Request;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{CONFIG, Installation, LONG, kill9};
use testkit::wait_until;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The story as soon as it tells of so many incidents, the last of them over. What is told a moment ago is
/// written down a moment later.
fn why(installation: &Installation, incidents: usize) -> Value {
    wait_until(LONG, "the incident to be written down", || {
        let output = installation.clawkeep(&["box", "why", "--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let story = json(&output);
        let last = &story["incidents"][incidents - 1];
        let over = last["outcome"] == "cured" && last["cure"]["settled"] == true;
        (over && story["incidents"].as_array()?.len() == incidents).then_some(story)
    })
}

/// Nothing that moves a cursor, in whatever form.
fn assert_harmless(output: &Output) {
    let text = text(output);
    let bad = |c: char| (c.is_control() && c != '\n') || ('\u{200b}'..='\u{202e}').contains(&c);
    assert!(!text.contains(bad), "{text:?}");
}

#[test]
fn a_killed_gateway_is_told_with_its_cause_and_its_cure() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    let output = installation.clawkeep(&["box", "why"]);
    assert!(text(&output).starts_with("box: nothing has gone wrong"), "{output:?}");

    kill9(status.gateway.unwrap().pid);
    let status = installation.ready_after("box", 1);
    let story = why(&installation, 1);
    let incident = &story["incidents"][0];
    assert_eq!((&story["schema"], &story["sandbox"]), (&1.into(), &"box".into()));
    assert_eq!(incident["cause"]["code"], "killed", "{incident:#}");
    assert_eq!(incident["cause"]["evidence"][0], "signal 9");
    assert_eq!(incident["happened"][0]["what"], "the gateway ended with signal 9");
    assert_eq!((&incident["cure"]["rung"], &incident["cure"]["launch"]), (&"respawn".into(), &2.into()));
    assert_eq!(story["replay"]["mismatches"], serde_json::json!([]));
    assert!(story["replay"]["steps"].as_u64().unwrap() > 10 && incident["lasted_ms"].as_u64().unwrap() > 0);
    assert_eq!((&story["now"]["phase"], &story["now"]["supervised"]), (&"ready".into(), &true.into()));

    let shown = text(&installation.clawkeep(&["why"]));
    for part in
        ["A signal from outside ended the agent. [killed, likely]", "cured by starting it again after "]
    {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(shown.ends_with("\n  next: nothing to do\n"), "{shown}");

    // Another end, another incident; and only the last one when only that is asked for.
    let port = status.dashboard_port.unwrap();
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    // It dies before it answers.
    let _ = testkit::http::post(stream, "/fake/exit-78", b"");
    installation.ready_after("box", 2);
    let story = why(&installation, 2);
    assert_eq!(story["incidents"][1]["cause"]["evidence"][0], "exit status 78", "{story:#}");
    let one = json(&installation.clawkeep(&["box", "why", "--last", "1", "--json"]));
    assert_eq!((&one["incidents"][0], one["incidents_in_all"].as_u64()), (&story["incidents"][1], Some(2)));
}

#[test]
fn a_guilty_configuration_is_told_with_all_that_was_tried() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    let path = installation.files("box").join(CONFIG);
    let write = |text: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        // The agent's user may repair it.
        for (path, mode) in [(path.parent().unwrap(), 0o777), (path.as_path(), 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    write("{}");
    kill9(status.gateway.unwrap().pid);
    let status = installation.ready_after("box", 1);
    why(&installation, 1);
    write("{\"orders\": \"crash:1\"}");
    kill9(status.gateway.unwrap().pid);
    installation.ready_after("box", 2);
    let story = why(&installation, 2);
    let incident = &story["incidents"][1];
    assert_eq!(incident["cure"]["rung"], "config", "{incident:#}");
    let tried: Vec<&str> = incident["tried"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["rung"].as_str().unwrap())
        .collect();
    assert!(tried.len() > 1 && tried.starts_with(&["respawn"]) && tried.ends_with(&["config"]), "{tried:?}");
    let happened = incident["happened"].as_array().unwrap();
    assert!(happened.iter().any(|happened| happened["kind"] == "config-restored"), "{happened:#?}");
    assert_eq!(story["replay"]["mismatches"], serde_json::json!([]));
    let shown = text(&installation.clawkeep(&["box", "why", "--last", "1"]));
    assert!(shown.contains("cured by putting its last healthy configuration back after "), "{shown}");
}

/// A child that does not outlive its test.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_followed_journal_tells_what_happens_next_and_ends_with_the_signal() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    let mut command = installation.command(&["events", "box", "--follow", "--json", "--tail", "1"]);
    let mut follower = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    // It has begun, so it sees what is next.
    assert_eq!(events.next().unwrap()["sandbox"], "box");
    kill9(status.gateway.unwrap().pid);
    let mut seen = Vec::new();
    let told = events.any(|event| {
        assert_eq!((&event["schema"], &event["sandbox"]), (&1.into(), &"box".into()), "{event}");
        seen.push((event["seq"].as_u64().unwrap(), event["kind"].as_str().unwrap().to_owned()));
        seen.iter().any(|(_, kind)| kind == "ended") && event["kind"] == "ready"
    });
    assert!(told, "it ended by itself");
    let has = |wanted: &str| seen.iter().any(|(_, kind)| kind == wanted);
    assert!(seen.is_sorted() && has("step") && has("diagnosis"), "{seen:?}");
    kill_process(Pid::from_child(&follower.0), Signal::INT).unwrap();
    let status = wait_until(LONG, "it to end", || follower.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(130));
}

#[test]
fn a_follower_misses_nothing_and_repeats_nothing_while_daemons_come_and_go() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let mut command = installation.command(&["events", "box", "--follow", "--json", "--tail", "1"]);
    let mut follower = Follower(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let seq = |event: &Value| event["seq"].as_u64().unwrap();
    let mut seen = vec![seq(&events.next().unwrap())];
    for round in 1..=2 {
        let daemon = installation.daemon().daemon.pid.cast_signed();
        if round == 1 {
            kill9(daemon);
        } else {
            installation.ask(&Request::Shutdown).unwrap();
            wait_until(LONG, "no daemon", || installation.home.lock_daemon().ok().map(drop));
        }
        kill9(installation.ready("box").gateway.unwrap().pid);
        installation.ready_after("box", round);
        let ended = events.find(|event| {
            seen.push(seq(event));
            event["kind"] == "ended"
        });
        assert!(ended.is_some(), "the follower ended by itself");
    }
    let all: Vec<u64> = installation.events("box").iter().map(|event| event.seq).collect();
    let from = all.iter().position(|seq| *seq == seen[0]).unwrap();
    assert_eq!(seen, all[from..from + seen.len()]);
}

#[test]
fn a_daemon_that_does_not_answer_is_named_with_what_to_do() {
    let installation = Installation::new();
    installation.create_fake("box", &[]);
    let daemon = installation.daemon().daemon.pid;
    let pid = Pid::from_raw(daemon.cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let output = installation.clawkeep(&["box", "why"]);
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("error[journal-busy]: ") && said.contains(&format!("(pid {daemon})")), "{said}");
    assert!(said.ends_with(&format!("\n  next: kill -KILL {daemon}\n")), "{said}");
    // As told.
    kill_process(pid, Signal::KILL).unwrap();
    let output = installation.clawkeep(&["box", "why"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    installation.ready("box");
}

#[test]
fn a_dead_daemons_story_can_be_read_and_a_forged_one_does_not_add_up() {
    let installation = Installation::new();
    let status = installation.create_fake("box", &[]);
    kill9(status.gateway.unwrap().pid);
    installation.ready_after("box", 1);
    why(&installation, 1);
    installation.ask(&Request::Shutdown).unwrap();
    let runs = || Client::connect(&installation.home.socket()).unwrap().is_some();
    wait_until(LONG, "the daemon to end", || (!runs()).then_some(()));

    let output = installation.clawkeep(&["why"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output).contains("no daemon runs"), "{output:?}");
    let story = json(&installation.clawkeep(&["box", "why", "--json"]));
    assert_eq!(
        (&story["now"]["supervised"], story["incidents"].as_array().unwrap().len()),
        (&false.into(), 1)
    );
    let events = text(&installation.clawkeep(&["events", "--tail", "1000", "--json"]));
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.is_sorted_by_key(|event| event["seq"].as_u64()) && events.len() > 20, "{}", events.len());
    assert!(!runs(), "looking has started a daemon");

    // Lines that an agent may have had written down draw nothing.
    let db = rusqlite::Connection::open(installation.home.db()).unwrap();
    let hostile = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31mred\r\u{8}\u{202e}gnp\u{200b}";
    let changed = db
        .execute("UPDATE events SET cause = ?1, kind = kind WHERE kind IN ('ended', 'ready')", [hostile])
        .unwrap();
    assert!(changed > 1);
    for args in [&["box", "why"][..], &["box", "why", "--json"], &["events"], &["box", "events", "--json"]] {
        let output = installation.clawkeep(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output).contains("red"), "{output:?}");
        assert_harmless(&output);
    }

    // A decision that the core would not have made.
    let seq: i64 = db
        .query_row(
            "UPDATE events SET data = json_set(data, '$.after.launches', 77)
             WHERE seq = (SELECT max(seq) FROM events WHERE kind = 'step') RETURNING seq",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(db);
    let output = installation.clawkeep(&["box", "why", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("error[replay-mismatch]: ") && said.contains("\n  next: "), "{said}");
    let mismatches = &json(&output)["replay"]["mismatches"];
    assert_eq!((&mismatches[0]["seq"], &mismatches[0]["kind"]), (&seq.into(), &"decision".into()));
    assert_eq!(mismatches.as_array().unwrap().len(), 1);
    // The next daemon looks after it again.
    installation.ready("box");
}

#[test]
fn an_agent_that_ends_over_a_refused_host_is_told_by_that_host() {
    let installation = Installation::new();
    let script = "curl -s https://plugins.example.com/index.json || echo 'TypeError: fetch failed: plugins.example.com'; exit 1";
    installation.make_script("box", script);
    let told = wait_until(LONG, "an end over the host", || {
        let events = installation.events("box").into_iter();
        let mut causes = events.filter(|event| event.entry.kind == "diagnosis");
        causes.find(|event| event.entry.data["cause"] == "denied-host").map(|event| event.entry.data)
    });
    assert_eq!(told["confidence"], "likely", "{told:#}");
    let evidence = told["evidence"].as_array().unwrap();
    assert!(evidence.contains(&"the proxy refused plugins.example.com".into()), "{told:#}");
}

#[test]
fn refused_system_calls_are_told_by_status_and_why_and_outlive_the_daemon() {
    let installation = Installation::new();
    let script = "unshare -n true; unshare -m true; /usr/sbin/chroot /tmp true; until [ -e end ]; do sleep 0.1; done; \
                  echo 'chroot: Operation not permitted'; exit 1";
    installation.make_script("box", script);
    let denied = || installation.status("box").denied;
    wait_until(LONG, "both to be told", || (denied().agent == ["chroot", "unshare"]).then_some(()));
    assert_eq!(denied().sessions, Vec::<String>::new());
    let (output, code) = installation.exec("box", "unshare -n true");
    assert!(code != 0 && output.contains("Operation not permitted"), "{output}");
    wait_until(LONG, "the session to be told", || (denied().sessions == ["unshare"]).then_some(()));
    let status = text(&installation.clawkeep(&["box", "status"]));
    assert!(
        status.contains("\n  denied     chroot, unshare (2 kinds); in sessions: unshare (1 kind)\n"),
        "{status}"
    );
    let told = || {
        let events = installation.events("box").into_iter().filter(|event| event.entry.kind == "denied");
        let mut told: Vec<String> = events.map(|event| event.entry.cause).collect();
        told.sort();
        told
    };
    let wanted = [
        "a session was refused the system call unshare",
        "the agent was refused the system call chroot",
        "the agent was refused the system call unshare",
    ];
    assert_eq!(told(), wanted);

    // Init knows it, and tells the next daemon.
    kill9(installation.daemon().daemon.pid.cast_signed());
    wait_until(LONG, "the next daemon to know", || (denied().agent == ["chroot", "unshare"]).then_some(()));
    assert_eq!(told(), wanted, "each is written down once");

    std::fs::write(installation.files("box").join("end"), "").unwrap();
    let told = wait_until(LONG, "its end", || {
        let story = json(&installation.clawkeep(&["box", "why", "--json"]));
        story["incidents"][0]["cause"]["evidence"].as_array().cloned()
    });
    assert_eq!(told, ["exit status 1", "denied: chroot, unshare", "chroot: Operation not permitted"]);
    let why = text(&installation.clawkeep(&["box", "why"]));
    assert!(why.contains("and ended over it. [denied-syscall, likely]"), "{why}");
    assert!(why.contains("denied: chroot, unshare | "), "{why}");
}
