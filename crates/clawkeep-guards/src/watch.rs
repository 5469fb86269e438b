use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::look::is_plain;

/// The shortest time from one look at the events to the next. What happens in between waits in the kernel,
/// bounded there, and a process that floods the directory costs us a bounded share of one core.
const PAUSE: Duration = Duration::from_millis(20);

/// The most events that are read at one go.
const BATCH: usize = 4096;

/// Tells when somebody lays hands on the published files in a directory (inotify(7)).
///
/// The directory is watched for what happens under the names, and each file besides, because a change
/// through another hard link is not reported to the directory. Names that are of no interest cost no memory.
#[derive(Debug)]
pub struct Watcher {
    inotify: AsyncFd<OwnedFd>,
    dir: OwnedFd,
    dir_watch: i32,
    names: Vec<String>,
    /// The watch on the file that now stands under each name.
    file_watches: Vec<Option<i32>>,
    not_before: Instant,
}

impl Watcher {
    /// Watches these names in this directory. Publish after this, not before: what was changed earlier is not
    /// reported. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses (the limits of inotify(7) among the reasons), or a name is no plain file name.
    pub fn new(dir: OwnedFd, names: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let names: Vec<_> = names.into_iter().collect();
        if let Some(bad) = names.iter().find(|name| !is_plain(name)) {
            let why = format!("{bad:?} is not a plain file name");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::ATTRIB
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        let dir_watch = inotify::add_watch(&inotify, format!("/proc/self/fd/{}", dir.as_raw_fd()), flags)?;
        #[expect(deprecated, reason = "its successor is unsafe; an OwnedFd keeps what that one asks for")]
        let inotify = AsyncFd::new(inotify)?;
        let mut watcher = Self {
            inotify,
            dir,
            dir_watch,
            file_watches: vec![None; names.len()],
            names,
            not_before: Instant::now(),
        };
        (0..watcher.names.len()).for_each(|index| watcher.arm(index));
        Ok(watcher)
    }

    /// Waits until something happened to files of interest, and names them. Our own publishing is reported
    /// as well: look again, and the look will find them intact. When more happened than the kernel keeps, all
    /// names are given. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the kernel has ended the watch.
    pub async fn changed(&mut self) -> io::Result<Vec<String>> {
        loop {
            drop(self.inotify.readable().await?);
            tokio::time::sleep_until(self.not_before).await;
            self.not_before = Instant::now() + PAUSE;
            // Taken before the events are read: what comes after that is not cleared with it.
            let mut ready = self.inotify.readable().await?;
            let mut changed = BTreeSet::new();
            let inotify = ready.get_inner();
            if drain(inotify, self.dir_watch, &self.names, &mut self.file_watches, &mut changed)? {
                ready.clear_ready();
            }
            drop(ready);
            if changed.is_empty() {
                continue;
            }
            // The new files are watched before anybody looks at them, so no change falls between.
            changed.iter().for_each(|index| self.arm(*index));
            return Ok(changed.into_iter().map(|index| self.names[index].clone()).collect());
        }
    }

    /// Watches the file that stands under a name now. When that fails (nothing there, not readable) the
    /// directory's watch still reports the next thing that happens under the name.
    fn arm(&mut self, index: usize) {
        let flags = WatchFlags::ATTRIB
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::DONT_FOLLOW;
        let path = format!("/proc/self/fd/{}/{}", self.dir.as_fd().as_raw_fd(), self.names[index]);
        let fresh = inotify::add_watch(self.inotify.get_ref(), path, flags).ok();
        let stale = std::mem::replace(&mut self.file_watches[index], fresh);
        if let Some(stale) = stale
            && !self.file_watches.contains(&Some(stale))
        {
            // Fails when the file is gone, and its watch with it.
            let _ = inotify::remove_watch(self.inotify.get_ref(), stale);
        }
    }
}

/// Reads events until there are none (true) or enough (false).
fn drain(
    inotify: &OwnedFd,
    dir_watch: i32,
    names: &[String],
    file_watches: &mut [Option<i32>],
    changed: &mut BTreeSet<usize>,
) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut seen = 0;
    loop {
        // A batch ends with a buffer, never within one.
        if seen >= BATCH && reader.is_buffer_empty() {
            return Ok(false);
        }
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(true),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        seen += 1;
        let kind = event.events();
        if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
            changed.extend(0..names.len());
        } else if event.wd() == dir_watch {
            if kind.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the directory is watched no more"));
            }
            let name = event.file_name().map(|name| name.to_bytes());
            changed.extend(names.iter().position(|have| Some(have.as_bytes()) == name));
        } else {
            for (index, watch) in file_watches.iter_mut().enumerate() {
                if *watch == Some(event.wd()) {
                    changed.insert(index);
                    if kind.contains(ReadFlags::IGNORED) {
                        *watch = None;
                    }
                }
            }
        }
    }
}
