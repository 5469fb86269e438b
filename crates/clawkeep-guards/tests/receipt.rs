//! The receipt that guards write: each once, with the digest of the bytes it was loaded from.

mod support;

use std::fs;

use clawkeep_guards::all;
use clawkeep_plan::LoadedGuard;
use support::{Run, with};

fn names() -> Vec<&'static str> {
    all().iter().map(|guard| guard.name).collect()
}

fn whole() -> String {
    all()
        .iter()
        .map(|guard| LoadedGuard { name: guard.name.into(), digest: guard.digest() }.to_line())
        .collect()
}

/// Says how many variables of ours a program sees, and how many descriptors of the receipt pipe it holds.
const LOOK: &str = "
    const fs = require('node:fs');
    const link = (fd) => { try { return fs.readlinkSync('/proc/self/fd/' + fd); } catch { return ''; } };
    const pipe = process.env.RECEIPT_PIPE;
    const held = fs.readdirSync('/proc/self/fd').filter((fd) => link(fd) === pipe).length;
    const variables = Object.keys(process.env).filter((name) => name.startsWith('CLAWKEEP')).length;
    console.error('seen', pipe.startsWith('pipe:['), variables, held);
";

fn receipt(run: &Run) -> String {
    let ended = run.js(LOOK);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.said("seen true 0 0"), 1, "{ended:?}");
    ended.stdout
}

#[test]
fn every_guard_reports_once_in_order_and_the_last_one_closes_the_pipe() {
    assert_eq!(receipt(&with(&names()).gateway().receipt(all().len())), whole());
    // Not only in the gateway: the role decides what a guard does, not whether it reports.
    assert_eq!(receipt(&with(&names()).receipt(all().len())), whole());
}

#[test]
fn before_the_last_guard_the_pipe_is_held_but_no_child_learns_of_it() {
    let ended = with(&names()).receipt(all().len() + 1).js(LOOK);
    assert_eq!(ended.said("seen true 0 1"), 1, "{ended:?}");
    assert_eq!(ended.stdout, whole());
}

#[test]
fn altered_bytes_have_another_digest() {
    let run = with(&names()).receipt(all().len());
    let path = run.dir.path().join("ciao-network-guard.js");
    let altered = [fs::read(&path).unwrap(), b"// more".to_vec()].concat();
    fs::write(&path, &altered).unwrap();
    let stdout = receipt(&run);
    let line = LoadedGuard { name: "ciao-network-guard".into(), digest: clawkeep_plan::Digest::of(&altered) };
    assert!(stdout.contains(&line.to_line()), "{stdout}");
    assert!(!whole().contains(&line.to_line()));
}

#[test]
fn a_second_copy_changes_nothing() {
    let run = with(&["ciao-network-guard", "ciao-network-guard"]).gateway().receipt(2);
    let copy = fs::read(run.dir.path().join("ciao-network-guard.js")).unwrap();
    fs::write(run.dir.path().join("copy.js"), copy).unwrap();
    let ended = run.js("
        const os = require('os');
        const before = os.networkInterfaces;
        require('./copy.js');
        console.error('same', before === os.networkInterfaces);
    ");
    assert_eq!(ended.said("same true"), 1, "{ended:?}");
    assert_eq!(ended.said("ciao-network-guard loaded"), 1, "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 1, "{ended:?}");
}

#[test]
fn a_guard_that_could_not_install_itself_does_not_report_and_does_not_throw() {
    let run = with(&["break", "sandbox-safety-net", "ciao-network-guard"])
        .file("break.js", "Object.freeze(require('os'));")
        .receipt(2);
    let ended = run.js("console.error('alive')");
    assert_eq!(ended.said("alive"), 1, "{ended:?}");
    assert_eq!(ended.said("ciao-network-guard could not be installed"), 1, "{ended:?}");
    assert!(ended.stdout.contains("sandbox-safety-net"), "{ended:?}");
    assert!(!ended.stdout.contains("ciao-network-guard"), "{ended:?}");
}

#[test]
fn children_do_not_write_to_it() {
    let ended = with(&names()).receipt(all().len()).js("
        require('node:child_process').spawnSync(process.execPath, ['-e', '0'], { stdio: ['ignore', 2, 2, 'ignore'] });
    ");
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stdout, whole());
}

#[test]
fn a_descriptor_that_is_no_pipe_is_left_alone() {
    // The variables without the descriptor: 3 then belongs to Node itself, or to nobody.
    for fd in ["3", "4", "1", "0", "-1", "x", "", "1e3"] {
        let ended = with(&names())
            .env("CLAWKEEP_RECEIPT_FD", fd)
            .env("CLAWKEEP_RECEIPT_GUARDS", "4")
            .js("setTimeout(() => console.log('alive', 'CLAWKEEP_RECEIPT_FD' in process.env), 20)");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "alive false\n"), "{fd}: {ended:?}");
    }
}

#[test]
fn nor_is_a_file_written_to() {
    let ended = with(&names()).js("
        const fs = require('node:fs');
        const fd = fs.openSync('file', 'w+');
        const env = { ...process.env, CLAWKEEP_RECEIPT_FD: '3', CLAWKEEP_RECEIPT_GUARDS: '4' };
        const child = \"process.exitCode = require('fs').fstatSync(3).isFile() ? 0 : 1\";
        const { status } = require('node:child_process')
            .spawnSync(process.execPath, ['-e', child], { env, stdio: ['ignore', 1, 2, fd] });
        console.log(status, fs.fstatSync(fd).size);
    ");
    assert_eq!(ended.stdout, "0 0\n", "{ended:?}");
}
