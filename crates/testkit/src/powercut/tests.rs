use super::*;

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A file written, synced and renamed without a sync of the directory; then one more write to it.
fn trace() -> Trace {
    let (root, a, b) = (hex("/r"), hex("/r/a"), hex("/r/b"));
    let lines = [
        format!("7 openat(AT_FDCWD<{}>, \"{a}\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 3<{a}>", hex("/")),
        format!("7 write(3<{a}>, \"{}\", 3)  = 3", hex("one")),
        format!("7 openat(AT_FDCWD<{}>, \"{}\", O_RDONLY) = 4<{}>", hex("/"), hex("/etc/x"), hex("/etc/x")),
        format!("7 fsync(3<{a}>)   = 0"),
        format!("8 fsync(5<{root}> <unfinished ...>"),
        format!("7 write(1<{}>, \"{}\", 7) = 7", hex("/dev/null"), hex("\ndone 1")),
        "8 <... fsync resumed>) = 0".to_owned(),
        format!(
            "7 renameat2(5<{root}>, \"{}\", 5<{root}>, \"{}\", RENAME_NOREPLACE) = 0",
            hex("a"),
            hex("b")
        ),
        format!("7 pwrite64(3<{b}>, \"{}\", 3, 3) = 3", hex("two")),
        format!("7 fchmod(3<{b}>, 0444) = 0"),
        format!("7 unlink(\"{}\") = -1 ENOENT (No such file or directory)", hex("/r/c")),
        "7 +++ exited with 0 +++".to_owned(),
    ];
    Trace::of(Path::new("/r"), &lines.join("\n"))
}

fn disk(trace: &Trace, cut: usize, loss: Loss) -> Disk {
    trace.disk(cut, loss, &mut crate::Seed(1).rng())
}

#[test]
fn what_was_synced_is_there_and_of_the_rest_what_the_loss_says() {
    let trace = trace();
    assert_eq!(trace.cuts(), 7);
    assert_eq!([0, 2, 3, 7].map(|cut| trace.done_at(cut)), [0, 0, 1, 1]);
    let whole = disk(&trace, 7, Loss::Nothing);
    assert_eq!((whole.file("a"), whole.file("b")), (None, Some(&b"onetwo"[..])));
    let synced = disk(&trace, 7, Loss::Everything);
    assert_eq!((synced.file("a"), synced.file("b")), (Some(&b"one"[..]), None));
    assert_eq!(disk(&trace, 7, Loss::Bytes).file("b"), Some(&b"one"[..]));
    assert_eq!(disk(&trace, 7, Loss::Zeros).file("b"), Some(&b"one\0\0\0"[..]));
    assert_eq!(disk(&trace, 7, Loss::Names).file("a"), Some(&b"onetwo"[..]));
    assert_eq!(disk(&trace, 3, Loss::Everything), Disk::default());
    assert_eq!(disk(&trace, 2, Loss::Bytes).file("a"), Some(&b""[..]));
    assert_ne!(whole.fingerprint(), synced.fingerprint());
}

#[test]
fn some_loss_is_between_nothing_and_everything() {
    let trace = trace();
    let mut rng = crate::Seed(7).rng();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let disk = trace.disk(7, Loss::Some, &mut rng);
        let bytes = disk.file("a").or(disk.file("b")).unwrap();
        assert!(bytes.starts_with(b"one"));
        seen.insert((disk.file("b").is_some(), bytes.len()));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(false, 3), (false, 6), (true, 3), (true, 6)]);
}

#[test]
fn each_call_can_be_named_to_strace() {
    let trace = trace();
    let points: Vec<_> = trace.points().iter().map(|point| (point.call.as_str(), point.when)).collect();
    assert_eq!(points[..4], [("openat", 1), ("write", 1), ("fsync", 1), ("fsync", 1)]);
    assert_eq!(points[4..], [("renameat2", 1), ("pwrite64", 1), ("fchmod", 1), ("unlink", 1)]);
}

#[test]
fn a_disk_is_written_out_as_it_was_left() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    disk(&trace(), 7, Loss::Nothing).write_to(temp.path());
    let file = temp.path().join("b");
    assert_eq!(std::fs::read(&file).unwrap(), b"onetwo");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o444);
}
