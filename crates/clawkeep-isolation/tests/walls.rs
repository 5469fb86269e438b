//! What the file system, `/proc` and Landlock hold, each with its positive control.

mod support;

use std::os::fd::AsFd;

use clawkeep_isolation::proto::{Ended, Kind, Order, Reply, Stdio};
use support::Sandbox;

#[test]
fn proc_tells_of_the_sandbox_and_not_of_the_kernel() {
    let mut sandbox = Sandbox::new();
    let masked = "for f in config.gz interrupts kallsyms kcore key-users keys kmsg latency_stats modules \
        sched_debug sysrq-trigger timer_list; do cat /proc/$f 2>/dev/null; done; \
        for d in acpi asound bus driver fs irq scsi; do ls /proc/$d 2>/dev/null; done; :";
    assert_eq!(sandbox.sh(masked), (String::new(), Ended::Exited(0)));
    let needed = "cd /proc; for f in meminfo cpuinfo stat loadavg uptime version self/status sys/kernel/osrelease \
        sys/vm/overcommit_memory; do test -n \"$(cat $f)\" || echo $f; done";
    assert_eq!(sandbox.sh(needed), (String::new(), Ended::Exited(0)));
    let (mounted, _) = sandbox
        .sh("while read -r a b c d where flags rest; do [ $where = /proc ] && echo $flags; \
        done < /proc/self/mountinfo");
    assert!(mounted.starts_with("ro,nosuid,nodev,noexec"), "{mounted}");
    for set in ["/proc/sys/kernel/hostname", "/proc/sys/user/max_user_namespaces", "/proc/sysrq-trigger"] {
        let (output, how) = sandbox.sh(&format!("echo 1 > {set}"));
        assert_ne!(how, Ended::Exited(0), "{set}: {output}");
    }
}

#[test]
fn files_can_be_moved_and_linked_within_the_home_and_devices_not_made() {
    let mut sandbox = Sandbox::new();
    let (output, how) = sandbox
        .sh("set -e; cd /sandbox; mkdir a b; echo x > a/f; mv a/f b/f; ln b/f a/g; : > a/g; test ! -s b/f; \
        mkfifo /tmp/pipe; echo moved");
    assert_eq!((output.as_str(), how), ("moved\n", Ended::Exited(0)));
    for attempt in [
        "mknod /tmp/null c 1 3",
        "mknod /sandbox/disk b 8 0",
        ": > /usr/bin/env",
        "ln /usr/bin/env /usr/bin/other",
        "mv /usr/bin/env /sandbox/",
    ] {
        let (output, how) = sandbox.sh(attempt);
        assert_ne!(how, Ended::Exited(0), "{attempt}: {output}");
    }
}

#[test]
fn a_gateway_signals_what_is_its_own_and_a_persons_shell_signals_all() {
    if clawkeep_isolation::landlock_abi() < 6 {
        eprintln!("SKIPPED: this kernel's Landlock has no scope for signals (ABI 6)");
        return;
    }
    let mut sandbox = Sandbox::new();
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
    sandbox.spawn("shell", Kind::Session, Stdio::Given, &["/bin/sleep", "1000"], &fds);
    let child = |sandbox: &mut Sandbox, id: &str| match sandbox.ask(Order::Hello, &[]) {
        (Reply::Hello { children, .. }, _) => children.into_iter().find(|child| child.id == id).unwrap(),
        (other, _) => panic!("{other:?}"),
    };
    let shell = child(&mut sandbox, "shell").pid;
    let script = format!(
        "kill -9 {shell} 2>/dev/null && echo open; kill -9 -1 2>/dev/null; \
        sleep 1000 & kill -9 $! && echo own; \
        cd /sandbox && mkdir from to && : > from/f && mv from/f to/f && echo moved; echo end; exec sleep 1000"
    );
    sandbox.spawn("g", Kind::Gateway, Stdio::Log, &["/bin/sh", "-c", &script], &[]);
    let minute = std::time::Duration::from_secs(60);
    testkit::wait_until(minute, "the gateway to have tried", || {
        sandbox.log().ends_with("end\n").then_some(())
    });
    assert_eq!(sandbox.log(), "own\nmoved\nend\n");
    let gateway = child(&mut sandbox, "g").pid;
    assert_eq!(sandbox.sh(&format!("kill -0 {shell} && kill -9 {gateway}")).1, Ended::Exited(0));
    let ended = testkit::wait_until(minute, "the gateway to end", || child(&mut sandbox, "g").ended);
    assert_eq!(ended, Ended::Signalled(9));
}
