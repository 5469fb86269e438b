//! A sandbox's certificate authority on the disk.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clawkeep_egress::{Authority, AuthorityError};
use clawkeep_inference::Secret;
use clawkeep_store::atomic;
use rustix::fs::Mode;

use crate::api::Failure;

const KEY: &str = "key.pem";
const CERT: &str = "cert.pem";
const BUNDLE: &str = "bundle.pem";

/// The authority, and what the sandbox's programs trust.
pub struct Ca {
    pub authority: Authority,
    /// The file that is shown inside.
    pub bundle: PathBuf,
    /// Why it is another one than before, for the journal.
    pub note: Option<String>,
}

/// The one in this directory, the same over every restart of everything; made where there is none, and made
/// anew where what is there can never serve again: without it there is no way to the model.
pub fn ready(dir: &Path) -> Result<Ca, Failure> {
    let next = format!("ls -l {}", dir.display());
    attempt(dir, host_roots).map_err(|error| {
        Failure::new("ca-failed", format!("the sandbox's certificate authority: {error}"), next)
    })
}

fn attempt(dir: &Path, roots: impl FnOnce() -> String) -> io::Result<Ca> {
    let fd = atomic::open_dir(dir)?;
    // What cannot be read now may be whole all the same: only what was read can be given up.
    let (cert, key) = (read(dir, CERT)?, read(dir, KEY)?);
    let whole = cert.is_some() && key.is_some();
    let (cert, key) = (cert.unwrap_or_default(), Secret::new(key.unwrap_or_default()));
    let (authority, note) = match Authority::load(&cert, &key) {
        Ok(authority) => (authority, None),
        Err(error @ AuthorityError::Make(_)) => return Err(io::Error::other(error)),
        Err(error) => {
            let authority = Authority::generate().map_err(io::Error::other)?;
            // A crash between the two leaves a pair that does not fit, and that is made anew as well.
            write(&fd, KEY, authority.key_pem().expose().as_bytes(), 0o600)?;
            write(&fd, CERT, authority.cert_pem().as_bytes(), 0o600)?;
            (authority, whole.then(|| format!("{error}: a new one was made")))
        }
    };
    let bundle = dir.join(BUNDLE);
    // Not made anew when the host's roots change: it is an input of running launches.
    if !read(dir, BUNDLE)?.is_some_and(|bundle| bundle.contains(authority.cert_pem().trim_end())) {
        write(&fd, BUNDLE, authority.bundle(&roots()).as_bytes(), 0o444)?;
    }
    Ok(Ca { authority, bundle, note })
}

/// A file's text, `None` where there is none; what is no text is no certificate either.
fn read(dir: &Path, name: &str) -> io::Result<Option<String>> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(String::from_utf8(bytes).unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(dir: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    atomic::write(dir, name, bytes, Mode::from_raw_mode(mode))
}

/// The host's trusted roots, where distributions keep them; without any the bundle holds ours alone.
fn host_roots() -> String {
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;

    use testkit::Seed;
    use testkit::powercut::{Fault, Loss, Trace, can_trace, leave_the_harness_behind, scratch};

    use super::*;

    const CHILD: &str = "CLAWKEEP_TEST_POWERCUT";

    /// The certificate, after it was seen that all three files belong together.
    fn whole(dir: &Path) -> String {
        let ca = attempt(dir, || "roots\n".into()).unwrap();
        assert!(std::fs::read_to_string(&ca.bundle).unwrap().contains(ca.authority.cert_pem().trim_end()));
        let again = attempt(dir, || "other roots\n".into()).unwrap();
        assert_eq!((again.note, again.authority.cert_pem()), (None, ca.authority.cert_pem()));
        again.authority.cert_pem().to_owned()
    }

    #[test]
    fn what_can_never_serve_again_is_made_anew_and_the_rest_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        for lost in [KEY, CERT, BUNDLE] {
            let before = whole(dir);
            std::fs::remove_file(dir.join(lost)).unwrap();
            assert_eq!(whole(dir) == before, lost == BUNDLE, "{lost}");
        }
        for damaged in [&b""[..], b"-----BEGIN", b"\xff\xfe"] {
            for name in [KEY, CERT] {
                std::fs::write(dir.join(name), damaged).unwrap();
                let note = attempt(dir, String::new).unwrap().note.expect("a note");
                assert!(note.contains("a new one was made"), "{note}");
                whole(dir);
            }
            std::fs::remove_file(dir.join(BUNDLE)).unwrap();
            std::fs::write(dir.join(BUNDLE), damaged).unwrap();
            let before = std::fs::read_to_string(dir.join(CERT)).unwrap();
            assert_eq!(whole(dir), before);
        }
        // What cannot be read is not given up.
        std::fs::remove_file(dir.join(KEY)).unwrap();
        std::fs::create_dir(dir.join(KEY)).unwrap();
        assert!(attempt(dir, String::new).is_err());
    }

    #[test]
    fn child_that_makes_one() {
        let Some(root) = std::env::var_os(CHILD) else { return };
        leave_the_harness_behind();
        // One that failed is tried again.
        let made =
            (0..5).find_map(|_| attempt(Path::new(&root), || "roots\n".into()).ok()).expect("made at last");
        let mut out = std::io::stdout();
        write!(out, "\ndone {}\n", made.authority.cert_pem().replace('\n', "|")).unwrap();
        out.flush().unwrap();
    }

    fn child(root: &Path) -> Command {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["ca::tests::child_that_makes_one", "--exact", "--nocapture", "--test-threads=1"]);
        child.env(CHILD, root);
        child
    }

    #[test]
    fn it_survives_a_power_cut_a_kill_and_an_error_anywhere() {
        if !can_trace() {
            eprintln!("SKIPPED: strace(1) is missing or may not trace");
            return;
        }
        let mut rng = Seed::from_env_or_random().rng();
        let temp = tempfile::tempdir_in(scratch()).unwrap();
        let root = temp.path().join("ca");
        std::fs::create_dir(&root).unwrap();
        let trace = Trace::record(&root, &child(&root));
        let first = std::fs::read_to_string(root.join(CERT)).unwrap();
        let mut states = std::collections::BTreeSet::new();
        for cut in 0..=trace.cuts() {
            for loss in Loss::ALL {
                let disk = trace.disk(cut, loss, &mut rng);
                if states.insert((trace.done_at(cut), disk.fingerprint())) {
                    let temp = tempfile::tempdir_in(scratch()).unwrap();
                    disk.write_to(temp.path());
                    let found = whole(temp.path());
                    let kept = trace.done_at(cut) == 0 || found == first;
                    assert!(kept, "after effect {cut}, loss {loss:?} it is another one");
                }
            }
        }
        assert!(states.len() > 10, "strace(1) told too little: {} states", states.len());
        for point in trace.points() {
            for fault in [Fault::Kill, Fault::Error("EIO")] {
                let temp = tempfile::tempdir_in(scratch()).unwrap();
                let root = temp.path().join("ca");
                std::fs::create_dir(&root).unwrap();
                let said = temp.path().join("said");
                let status = point.inject(fault, &child(&root), &said);
                assert!(status.success() || fault == Fault::Kill, "{fault:?} at {point:?}: {status}");
                let said = std::fs::read_to_string(said).unwrap().replace('|', "\n");
                let found = whole(&root);
                assert!(!said.contains("\ndone") || said.contains(&found), "{fault:?} at {point:?}");
            }
        }
    }
}
