//! A machine that has no time: every processor wanted by more than one.

use std::process::{Child, Command};

/// Processes that do nothing but run, twice as many as there are processors. Ended with this.
pub struct Load(Vec<Child>);

impl Load {
    pub fn full() -> Self {
        let processors = std::thread::available_parallelism().unwrap().get();
        let spin = || Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..processors * 2).map(|_| spin()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// How long a soak takes, in minutes: `CLAWKEEP_SOAK_MINUTES`, or an hour.
pub fn soak_time() -> std::time::Duration {
    let minutes = std::env::var("CLAWKEEP_SOAK_MINUTES").map_or(60, |minutes| minutes.parse().unwrap());
    std::time::Duration::from_secs(minutes * 60)
}
