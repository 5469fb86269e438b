use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment variable that tells the inner run what it is.
const VARIABLE: &str = "CLAWKEEP_TEST_INNER";

/// Runs the calling test once more in a process of its own, with other rights than this one has: in a private
/// mount namespace, or as another user.
///
/// ```no_run
/// # use testkit::{Outcome, Reexec};
/// match Reexec::of("tests::full_disk").private_mounts().run() {
///     Outcome::Inside => { /* mount a small tmpfs and test; it goes away with this process */ }
///     Outcome::Passed | Outcome::Skipped => {}
/// }
/// ```
#[derive(Debug)]
pub struct Reexec {
    test: String,
    wrapper: Vec<String>,
    user: Option<u32>,
    given: Option<PathBuf>,
    needs: &'static str,
}

/// Where [`Reexec::run`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This is the inner run: do the test.
    Inside,
    /// This is the outer run; the inner one has passed.
    Passed,
    /// The host cannot give these rights. It was said loudly.
    Skipped,
}

impl Reexec {
    /// For the test of this full name, as the test binary lists it.
    pub fn of(test: &str) -> Self {
        Self {
            test: test.to_owned(),
            wrapper: Vec::new(),
            user: None,
            given: None,
            needs: "to run itself again",
        }
    }

    /// In a mount namespace of its own, with the right to mount (unshare(1)).
    #[must_use]
    pub fn private_mounts(mut self) -> Self {
        let root = rustix::process::geteuid().is_root();
        let flags = if root { "--mount" } else { "--user --map-root-user --mount" };
        self.wrapper =
            format!("unshare {flags} --propagation private --").split(' ').map(str::to_owned).collect();
        self.needs = "root or user namespaces, and unshare(1)";
        self
    }

    /// As another, unprivileged user (setpriv(1)), with a temporary directory of its own.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.wrapper = format!("setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps=-all --")
            .split(' ')
            .chain(["sh", "-c", r#"test -w "$TMPDIR" && exec "$0" "$@""#])
            .map(str::to_owned)
            .collect();
        self.user = Some(uid);
        self.needs = "root, setpriv(1), and target and temporary directories that others may enter";
        self
    }

    /// The user is also in this group. To be called after [`user`](Self::user).
    #[must_use]
    pub fn group(mut self, gid: u32) -> Self {
        for word in self.wrapper.iter_mut().filter(|word| *word == "--clear-groups") {
            *word = format!("--groups={gid}");
        }
        self
    }

    /// Hand this directory over to the other user: it is moved into the inner run's temporary directory, whole.
    #[must_use]
    pub fn given(mut self, directory: PathBuf) -> Self {
        self.given = Some(directory);
        self
    }

    /// As an ordinary user, uid 1000, in a user namespace of its own whose limits it may set (unshare(1);
    /// `/proc/sys/user`, namespaces(7)).
    #[must_use]
    pub fn user_namespace(mut self) -> Self {
        self.wrapper = "unshare --user --map-user=1000 --map-group=1000 --keep-caps --"
            .split(' ')
            .map(str::to_owned)
            .collect();
        self.needs = "user namespaces, and unshare(1) of util-linux 2.38";
        self
    }

    /// Whether this is the inner run.
    pub fn is_inside(&self) -> bool {
        std::env::var(VARIABLE).is_ok_and(|inner| inner == self.test)
    }

    /// Run the inner test, unless this is it.
    ///
    /// # Panics
    /// When the inner test fails.
    #[track_caller]
    pub fn run(&self) -> Outcome {
        if self.is_inside() {
            return Outcome::Inside;
        }
        let scratch = self.user.map(Scratch::of);
        // With no test of this name the binary runs none and exits 0: a cheap probe of the rights.
        if !self.command("no test has this name", scratch.as_ref()).is_ok_and(|mut probe| {
            probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        }) {
            eprintln!("SKIPPED: {} needs {}", self.test, self.needs);
            return Outcome::Skipped;
        }
        if let (Some(given), Some(Scratch(scratch)), Some(uid)) = (&self.given, &scratch, self.user) {
            let to = scratch.join(given.file_name().expect("a directory with a name"));
            std::fs::rename(given, &to).expect("hand over a directory");
            own(&to, uid).expect("hand over a directory");
        }
        let inner = self.command(&self.test, scratch.as_ref()).and_then(|mut inner| inner.output());
        let output = inner.expect("run itself again");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        eprintln!("{text}");
        assert!(output.status.success(), "the inner run of {} failed", self.test);
        assert!(text.contains("1 passed"), "no test is called {}", self.test);
        Outcome::Passed
    }

    fn command(&self, test: &str, scratch: Option<&Scratch>) -> std::io::Result<Command> {
        let binary = std::env::current_exe()?;
        let mut words = self.wrapper.iter();
        let mut command = match words.next() {
            Some(program) => {
                let mut command = Command::new(program);
                command.args(words).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.args([test, "--exact", "--nocapture", "--include-ignored"]).env(VARIABLE, &self.test);
        if let Some(scratch) = scratch {
            command.env("TMPDIR", &scratch.0);
        }
        Ok(command)
    }
}

/// Everything in this directory is this user's.
fn own(path: &Path, uid: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            own(&entry?.path(), uid)?;
        }
    }
    Ok(())
}

/// A temporary directory of the other user, gone with the outer run.
struct Scratch(PathBuf);

impl Scratch {
    fn of(uid: u32) -> Self {
        let path = std::env::temp_dir().join(format!("clawkeep-test-{}-{uid}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).expect("a temporary directory");
        let scratch = Self(path);
        // Without the right to do this the probe finds that the directory is not writable.
        let _ = std::os::unix::fs::chown(&scratch.0, Some(uid), Some(uid));
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_inner_run_stay_there() {
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = std::env::temp_dir();
        // The mount goes away with the namespace of the inner run.
        match Reexec::of("reexec::tests::mounts_of_the_inner_run_stay_there").private_mounts().run() {
            Outcome::Inside => {
                let flags = rustix::mount::MountFlags::empty();
                rustix::mount::mount("inner-probe", &place, "tmpfs", flags, None).unwrap();
                assert!(mounts().contains("inner-probe"));
            }
            Outcome::Passed | Outcome::Skipped => assert!(!mounts().contains("inner-probe")),
        }
    }

    #[test]
    fn the_inner_run_has_another_user() {
        if Reexec::of("reexec::tests::the_inner_run_has_another_user").user(65534).run() == Outcome::Inside {
            assert_eq!(rustix::process::geteuid().as_raw(), 65534);
            assert!(std::fs::write("/proc/sys/kernel/hostname", "x").is_err());
            std::fs::write(std::env::temp_dir().join("file"), "x").unwrap();
        }
    }
}
