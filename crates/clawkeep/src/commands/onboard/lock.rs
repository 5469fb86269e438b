use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clawkeep_plan::SandboxName;
use clawkeep_store::Home;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::problem::Problem;

/// One onboarding of a name at a time: a second one would take the first for an interrupted one and remove its
/// sandbox. The kernel gives it up when the process is gone, however it went.
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held, so nobody else's can be meant.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Take it.
///
/// # Errors
/// `onboarding-runs` when another onboarding has it.
pub fn take(home: &Home, name: &SandboxName) -> Result<Lock, Problem> {
    let path = home.run().join(format!("onboard-{name}.lock"));
    let failed = |error: std::io::Error| {
        Problem::new(
            "system",
            format!("cannot lock {}: {error}", path.display()),
            &format!("ls -l {}", path.display()),
        )
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let file: File =
            rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?.into();
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let message = format!("another onboarding of {name} is at work");
                return Err(Problem::new("onboarding-runs", message, &format!("clawkeep {name} status")));
            }
            Err(error) => return Err(failed(error.into())),
        }
        // The holder before may have removed the file that we opened.
        let ours = file.metadata().map_err(failed)?;
        if std::fs::symlink_metadata(&path)
            .is_ok_and(|found| (found.ino(), found.dev()) == (ours.ino(), ours.dev()))
        {
            return Ok(Lock { path, _file: file });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_onboarding_a_name_and_nothing_left_of_it() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::open(&temp.path().join("home")).unwrap();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = take(&home, &a).unwrap();
        let problem = take(&home, &a).err().unwrap();
        assert_eq!((problem.failure.code.as_str(), problem.status), ("onboarding-runs", 1));
        let other = take(&home, &b).unwrap();
        drop((first, other));
        drop(take(&home, &a).unwrap());
        assert_eq!(std::fs::read_dir(home.run()).unwrap().count(), 0);
    }
}
