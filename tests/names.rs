//! Names inside a sandbox: the tools that look one up before they use the proxy get an answer for what may be reached,
//! and no other.

mod support;

use support::{Installation, LONG, kill9};
use testkit::{Outcome, Reexec, wait_until};

/// How programs look names up, each with what it prints for `inference.local`, and the mark of one that is refused.
const WAYS: &[(&str, &str, &str)] = &[
    ("getent hosts NAME | awk 'NR == 1 { print $1 }; END { if (!NR) print \"none\" }'", "192.0.2.1", "none"),
    (
        "python3 -c 'import socket; print(socket.getaddrinfo(\"NAME\", 443, socket.AF_INET)[0][4][0])' 2>&1",
        "192.0.2.1",
        "Name or service not known",
    ),
    (
        "node -e 'require(\"dns\").lookup(\"NAME\", (error, ip) => console.log(error ? error.code : ip))'",
        "192.0.2.1",
        "ENOTFOUND",
    ),
    (
        "node -e 'require(\"dns\").resolve4(\"NAME\", (error, ips) => console.log(error ? error.code : ips[0]))'",
        "192.0.2.1",
        "ENOTFOUND",
    ),
    // Without the C library's resolver, over TCP.
    (
        "python3 -c 'import socket, struct
name = b\"\".join(bytes([len(label)]) + label.encode() for label in \"NAME\".split(\".\"))
asked = struct.pack(\">6H\", 7, 256, 1, 0, 0, 0) + name + struct.pack(\">BHH\", 0, 1, 1)
s = socket.create_connection((\"127.0.0.1\", 53), 60)
s.sendall(struct.pack(\">H\", len(asked)) + asked)
answer = s.recv(1024)
print(socket.inet_ntoa(answer[-4:]) if answer[9] else answer[5] & 15)'",
        "192.0.2.1",
        "3",
    ),
];

fn look(installation: &Installation) {
    for (way, found, refused) in WAYS {
        if way.starts_with("node") && installation.exec("box", "command -v node").1 != 0 {
            eprintln!("SKIPPED: {way}: there is no node");
            continue;
        }
        let (output, _) = installation.exec("box", &way.replace("NAME", "inference.local"));
        assert_eq!(output.trim(), *found, "{way}");
        let (output, _) = installation.exec("box", &way.replace("NAME", "no-rule.example.com"));
        assert!(output.trim().ends_with(refused), "{way}: {output}");
    }
}

fn names() {
    let installation = Installation::new();
    let before = installation.create_fake("box", &[]);
    look(&installation);
    let told = || {
        let events = installation.events("box");
        let refused = events.iter().map(|event| &event.entry).filter(|entry| entry.kind == "denied");
        refused.filter(|entry| entry.cause.contains("no-rule.example.com")).count()
    };
    wait_until(LONG, "the refused name in the journal", || (told() > 0).then_some(()));
    assert_eq!(told(), 1, "once, however many asked");
    // The next daemon takes the name server over.
    let daemon = installation.daemon().daemon.pid;
    kill9(daemon as i32);
    wait_until(LONG, "the next daemon", || (installation.daemon().daemon.pid != daemon).then_some(()));
    assert_eq!(installation.ready("box").gateway.unwrap().pid, before.gateway.unwrap().pid);
    look(&installation);
    // Nobody else can have its port.
    let (output, code) = installation.exec(
        "box",
        "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind((\"127.0.0.1\", 53))' 2>&1",
    );
    assert!(code != 0 && output.contains("Permission denied"), "{output}");
}

#[test]
fn what_may_be_reached_has_a_name_and_nothing_else() {
    names();
}

#[test]
fn for_an_ordinary_user_as_well() {
    if Reexec::of("for_an_ordinary_user_as_well").user(12_345).run() == Outcome::Inside {
        names();
    }
}
