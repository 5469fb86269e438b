//! The guard for OpenClaw where it has no `/tmp` of its own, in real Node.

mod support;

use support::{Run, with};

/// What OpenClaw's coordinator of locks and its choice of a directory ask, by names that were imported before.
const OPENCLAW: &str = "
import fs, { accessSync, realpathSync } from 'node:fs';
console.log(realpathSync.native('/tmp'), realpathSync.native('/usr/.'), realpathSync('/usr'));
for (const access of [accessSync, fs.accessSync]) {
  try { access('/tmp/openclaw', fs.constants.W_OK); console.log('writable'); } catch (error) { console.log(error.code); }
}
accessSync('/usr');
";

fn run() -> (Run, String) {
    let run = with(&["private-tmp"]);
    let own = run.dir.path().canonicalize().unwrap().display().to_string();
    (run, own)
}

#[test]
fn what_openclaw_takes_tmp_for_is_the_sandboxs_own() {
    let (run, own) = run();
    let ended = run.script("program.mjs", OPENCLAW);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(ended.stdout, format!("{own} /usr /usr\nEACCES\nEACCES\n"));
}

#[test]
fn workers_see_it_whatever_environment_they_are_given() {
    let (run, own) = run();
    // The heartbeat of OpenClaw's lease has none at all, and no arguments for Node.
    let worker = |options: &str| {
        let source = "console.log(require('fs').realpathSync.native('/tmp'), process.env.GIVEN)";
        format!("new Worker(\"{source}\", {{ eval: true{options} }});")
    };
    for (options, given) in [
        ("", "undefined"),
        (", env: {}", "undefined"),
        (", env: {}, execArgv: []", "undefined"),
        (", env: { GIVEN: 'given' }, execArgv: ['--no-warnings']", "given"),
        (", env: { ...process.env, GIVEN: 'given' }, execArgv: []", "given"),
    ] {
        let program = format!("import {{ Worker }} from 'node:worker_threads'; {}", worker(options));
        let ended = run.script("program.mjs", &program);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{options}: {ended:?}");
        assert_eq!(ended.stdout, format!("{own} {given}\n"), "{options}");
    }
}

#[test]
fn without_a_directory_of_its_own_it_is_not_in_force_and_not_reported() {
    let ended = with(&["private-tmp"]).env("TMPDIR", "").receipt(1).js("");
    assert!(ended.stderr.contains("private-tmp could not be installed: Error: TMPDIR names no directory"));
    assert_eq!(ended.stdout, "", "{ended:?}");
    let (run, _) = run();
    let ended = run.receipt(1).js("");
    assert!(ended.stdout.contains("\"name\":\"private-tmp\""), "{ended:?}");
}
