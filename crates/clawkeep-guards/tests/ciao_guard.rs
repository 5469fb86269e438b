//! The ciao guard in real Node under a real seccomp filter.

mod support;

use support::with;

/// What the mDNS library does: asks for the interfaces in a promise that nobody catches.
const LIBRARY: &str = "
const os = require('node:os');
(async () => console.log(JSON.stringify(os.networkInterfaces())))();
setTimeout(() => console.log('alive'), 50);
";

#[test]
fn without_the_guard_the_process_dies_and_with_it_it_lives() {
    let naked = with(&[]).without_netlink().js(LIBRARY);
    assert_eq!(naked.code, Some(1), "{naked:?}");
    assert!(naked.stderr.contains("uv_interface_addresses returned Unknown system error 1"), "{naked:?}");
    assert!(!naked.stdout.contains("alive"));

    let guarded = with(&["ciao-network-guard"]).without_netlink().js(LIBRARY);
    assert_eq!(guarded.code, Some(0), "{guarded:?}");
    let (answer, rest) = guarded.stdout.split_once('\n').unwrap();
    assert_eq!(rest, "alive\n");
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer.as_object().unwrap().len(), 1);
    assert_eq!(answer["lo"][0]["address"], "127.0.0.1");
    assert_eq!(answer["lo"][0]["internal"], true);
    assert_eq!(guarded.said("os.networkInterfaces() failed, answering loopback only"), 1);
}

#[test]
fn where_netlink_works_the_answer_is_the_real_one() {
    let program = "console.log(JSON.stringify(require('os').networkInterfaces()))";
    let (naked, guarded) = (with(&[]).js(program), with(&["ciao-network-guard"]).js(program));
    assert_eq!(naked.stdout, guarded.stdout);
    assert_eq!(guarded.stderr, "");
}

#[test]
fn esm_named_imports_and_workers_see_it() {
    let run = with(&["ciao-network-guard"]).without_netlink();
    let esm = run.script(
        "program.mjs",
        "import { networkInterfaces } from 'node:os'; console.log(Object.keys(networkInterfaces()));",
    );
    assert_eq!((esm.code, esm.stdout.as_str()), (Some(0), "[ 'lo' ]\n"), "{esm:?}");

    let worker = run.gateway().js("
        const { Worker } = require('node:worker_threads');
        new Worker(\"console.log(Object.keys(require('os').networkInterfaces()))\", { eval: true, env: { ...process.env, CLAWKEEP_PROCESS: 'openclaw-gateway' } });
    ");
    assert_eq!((worker.code, worker.stdout.as_str()), (Some(0), "[ 'lo' ]\n"), "{worker:?}");
    assert_eq!(worker.said("ciao-network-guard loaded"), 1, "a worker is not the gateway: {worker:?}");
}

#[test]
fn an_import_that_was_there_first_sees_it_too() {
    let run = with(&["early", "ciao-network-guard"])
        .without_netlink()
        .file("early.mjs", "export { networkInterfaces } from 'node:os';")
        .file("early.js", "globalThis.early = require('./early.mjs');")
        .js("console.log(Object.keys(globalThis.early.networkInterfaces()));");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "[ 'lo' ]\n"), "{run:?}");
}

#[test]
fn each_answer_is_a_new_object() {
    let run = with(&["ciao-network-guard"]).without_netlink().js("
        const os = require('os');
        os.networkInterfaces().lo.length = 0;
        console.log(os.networkInterfaces().lo.length);
    ");
    assert_eq!(run.stdout, "1\n", "{run:?}");
}

#[test]
fn failures_are_logged_once_and_then_every_five_minutes_with_the_count() {
    let run = with(&["ciao-network-guard"]).without_netlink().js("
        const os = require('os');
        const start = Date.now();
        const at = (seconds) => { Date.now = () => start + seconds * 1000; os.networkInterfaces(); };
        for (const seconds of [0, 60, 120, 299, 300, 301, 599, 600, 1200]) at(seconds);
        at(100);
    ");
    assert_eq!(run.code, Some(0));
    let lines: Vec<_> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 5, "{run:?}");
    assert!(lines[0].ends_with("(Unknown system error 1)"));
    assert!(lines[1].ends_with("(3 more since the last line)"));
    assert!(lines[2].ends_with("(2 more since the last line)"));
    // After a quiet time, and after the clock was set back, it speaks at once.
    assert_eq!((lines[3], lines[4]), (lines[0], lines[0]));
}

#[test]
fn the_loaded_line_says_what_the_process_is() {
    let loaded = |args: &[&'static str]| {
        let run = with(&["ciao-network-guard"]).args(args).js("0");
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stderr
    };
    let gateway = "[guard] ciao-network-guard loaded (openclaw-gateway)\n";
    let launcher = "[guard] ciao-network-guard loaded (launcher)\n";
    for args in [
        ["gateway"].as_slice(),
        &["gateway", "run"],
        &["gateway", "--port", "1"],
        &["--dev", "gateway", "run"],
        &["--profile", "p", "gateway", "run"],
    ] {
        assert_eq!(loaded(args), gateway, "{args:?}");
    }
    assert_eq!(loaded(&["gateway", "restart"]), launcher);
    for args in
        [[].as_slice(), &["agent", "gateway"], &["--profile", "gateway"], &["tui"], &["run", "gateway"]]
    {
        assert_eq!(loaded(args), "", "{args:?}");
    }
    assert_eq!(with(&["ciao-network-guard"]).gateway().js("0").stderr, gateway);
}
