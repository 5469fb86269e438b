//! The safety net in real Node: what it keeps from killing the gateway, and all that it leaves alone.

mod support;

use support::{Run, with};

/// A library that rejects, and one that calls back.
fn run(guards: &[&'static str]) -> Run {
    with(guards)
        .file(
            "node_modules/@homebridge/ciao/index.js",
            "exports.fail = async () => { throw new Error('mdns broke'); };
             exports.call = async (back) => back();",
        )
        .file(
            "node_modules/other/index.js",
            "exports.fail = async () => { throw new Error('other broke'); };",
        )
}

const NET: &[&str] = &["sandbox-safety-net"];
const BENIGN: &str = "require('@homebridge/ciao').fail();
    setTimeout(() => console.log('alive', process.listenerCount('unhandledRejection')), 50);";

#[test]
fn a_rejection_of_a_benign_library_does_not_end_the_gateway() {
    let naked = run(&[]).gateway().js(BENIGN);
    assert_eq!((naked.code, naked.stdout.as_str()), (Some(1), ""), "{naked:?}");

    for flag in ["--unhandled-rejections=throw", "--unhandled-rejections=strict"] {
        let guarded = run(NET).gateway().flag(flag).js(BENIGN);
        assert_eq!((guarded.code, guarded.stdout.as_str()), (Some(0), "alive 0\n"), "{flag}: {guarded:?}");
        assert_eq!(guarded.said("[sandbox-safety-net] loaded (openclaw-gateway)"), 1);
        assert_eq!(guarded.said("rejection of @homebridge/ciao does not end the gateway: mdns broke"), 1);
    }
    let by_argv = run(NET).args(&["gateway", "run"]).js(BENIGN);
    assert_eq!(by_argv.code, Some(0), "{by_argv:?}");
}

#[test]
fn nor_does_the_error_of_the_founding_report() {
    let program =
        "(async () => require('os').networkInterfaces())(); setTimeout(() => console.log('alive'), 50);";
    let guarded = run(NET).gateway().without_netlink().js(program);
    assert_eq!((guarded.code, guarded.stdout.as_str()), (Some(0), "alive\n"), "{guarded:?}");
    let cancelled = run(NET).gateway().js("Promise.reject('CIAO PROBING CANCELLED');");
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
}

#[test]
fn the_agents_own_handler_never_hears_of_it() {
    let program = format!("process.on('unhandledRejection', () => process.exit(9)); {BENIGN}");
    assert_eq!(run(&[]).gateway().js(&program).code, Some(9));
    let guarded = run(NET).gateway().js(&program);
    assert_eq!((guarded.code, guarded.stdout.as_str()), (Some(0), "alive 1\n"), "{guarded:?}");
}

#[test]
fn everything_else_goes_as_without_it() {
    for program in [
        "require('other').fail();",
        // Our own code, though the library called it.
        "require('@homebridge/ciao').call(() => { throw new Error('ours'); });",
        // A message that looks like a frame.
        "Promise.reject(new Error('x\\n    at f (/a/node_modules/@homebridge/ciao/index.js:1:1)\\n'));",
        "Promise.reject('CIAO PROBING CANCELLED '); ",
        "Promise.reject(undefined);",
        "Promise.reject(Object.create(null));",
        "Promise.reject(Object.defineProperty(new Error('m'), 'stack', { get() { throw 1; } }));",
        "const e = new Error('m'); e.stack = 7; Promise.reject(e);",
        "setTimeout(() => { throw new Error('/node_modules/@homebridge/ciao/'); }, 1);",
        "process.exit(7);",
        "process.exitCode = 5;",
        "process.on('unhandledRejection', (r) => { console.log('heard', r.message); process.exit(4); }); require('other').fail();",
        "process.on('uncaughtException', (e, o) => console.log('caught', e.message, o)); require('other').fail();",
        "process.once('unhandledRejection', () => {}); require('other').fail(); setTimeout(() => console.log('on'), 20);",
        "process.on('exit', (code) => console.log('exit', code)); process.emit('SIGUSR2', 1); require('other').fail();",
        "process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 10000);",
    ] {
        let naked = run(&[]).gateway();
        let guarded = run(NET).gateway();
        let (want, have) = (naked.js(program), guarded.js(program));
        assert_eq!((have.code, &have.stdout), (want.code, &want.stdout), "{program}: {have:?}");
        // The report of the crash is the same as well, from the error on: above it Node shows the source line,
        // or, once anybody has read the stack, a line of its own.
        let plain = |text: &str, run: &Run| {
            let text = text.replace(run.dir.path().to_str().unwrap(), "DIR");
            let text = text.replace("[sandbox-safety-net] loaded (openclaw-gateway)\n", "");
            text.split_once("\n\n").map_or(text.clone(), |(_, rest)| rest.to_owned())
        };
        assert_eq!(plain(&have.stderr, &guarded), plain(&want.stderr, &naked), "{program}");
    }
}

#[test]
fn outside_the_gateway_process_nothing_changes() {
    for run in [run(NET), run(NET).args(&["agent", "gateway"]), run(NET).args(&["gateway", "status"])] {
        let ended = run.js(BENIGN);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        assert_eq!(ended.said("sandbox-safety-net"), 0, "{ended:?}");
        let untouched = run.js("console.log(Object.hasOwn(process, 'emit'))");
        assert_eq!(untouched.stdout, "false\n");
    }
}

#[test]
fn a_child_of_the_gateway_is_not_the_gateway() {
    let child = "
        const { spawnSync } = require('node:child_process');
        const { status, stderr } = spawnSync(process.execPath, ['-e', 'Promise.reject(1)'], { encoding: 'utf8' });
        console.log(status, stderr.includes('sandbox-safety-net'), 'CLAWKEEP_PROCESS' in process.env);
    ";
    let ended = run(NET).gateway().js(child);
    assert_eq!(ended.stdout, "1 false false\n", "{ended:?}");
}
