//! The service manager that the daemon runs under, if any: what it is told (sd_notify(3)), and asked.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Beats within one period of the manager's watchdog.
const BEATS: u32 = 3;

/// More time for a start that goes on.
const MORE: Duration = Duration::from_secs(60);

/// How long the manager may take to say whether the host goes down.
const ANSWER: Duration = Duration::from_secs(5);

/// The service manager, or nobody: then nothing is told. The variables that name it stay with the daemon:
/// everything it starts gets an environment of its own.
#[derive(Debug, Clone, Copy)]
pub struct Manager {
    listens: bool,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this process.
    pub fn of_process() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self { listens, watchdog: sd_notify::watchdog_enabled().filter(|_| listens) }
    }

    /// Whether there is one.
    pub fn listens(self) -> bool {
        self.listens
    }

    /// Starting: how far it is, and that it goes on.
    pub fn starting(self, done: usize, of: usize) {
        let more = u32::try_from(MORE.as_micros()).unwrap_or(u32::MAX);
        let text = format!("started {done} of {of} sandboxes");
        self.tell(&[NotifyState::Status(&text), NotifyState::ExtendTimeoutUsec(more)]);
    }

    /// Everything is started.
    pub fn ready(self, text: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(text)]);
    }

    /// The end has begun.
    pub fn stopping(self, text: &str) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status(text)]);
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.listens {
            // A manager that does not hear us ends us in its own time.
            let _ = sd_notify::notify(states);
        }
    }

    /// The watchdog's heartbeat, where it is wanted. `answers` is asked in a thread of its own; no beat
    /// without its yes.
    pub fn heart(self, answers: impl Fn() -> bool + Send + Sync + 'static) -> Option<Heart> {
        let period = self.watchdog?.max(Duration::from_millis(3)) / BEATS;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Some(Heart { manager: self, ticks, answers: Arc::new(answers), asking: Arc::default() })
    }
}

/// The heartbeat: told only by a loop that turns and a store that answers.
pub struct Heart {
    manager: Manager,
    ticks: tokio::time::Interval,
    answers: Arc<dyn Fn() -> bool + Send + Sync>,
    asking: Arc<AtomicBool>,
}

impl Heart {
    /// Until the next beat is due; for ever without a heart.
    pub async fn due(heart: &mut Option<Self>) {
        match heart {
            Some(heart) => drop(heart.ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    /// One beat, once the store has answered. While a question is open no other is put.
    pub fn beat(&self) {
        if self.asking.swap(true, Ordering::SeqCst) {
            return;
        }
        let (manager, answers, asking) = (self.manager, Arc::clone(&self.answers), Arc::clone(&self.asking));
        drop(tokio::task::spawn_blocking(move || {
            if answers() {
                manager.tell(&[NotifyState::Watchdog]);
            }
            asking.store(false, Ordering::SeqCst);
        }));
    }
}

/// Whether the host, or the user's session manager that runs us, is going down. Not when nobody can say.
pub async fn goes_down() -> bool {
    if !crate::unit::systemd_runs() {
        return false;
    }
    let managers =
        if std::env::var_os("MANAGERPID").is_some() { &["--user", "--system"][..] } else { &["--system"] };
    for manager in managers {
        let mut systemctl = tokio::process::Command::new("systemctl");
        systemctl.args([manager, "is-system-running"]).stdin(Stdio::null()).stderr(Stdio::null());
        let answer = tokio::time::timeout(ANSWER, systemctl.kill_on_drop(true).output()).await;
        if let Ok(Ok(output)) = answer
            && output.stdout.trim_ascii() == b"stopping"
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked_by(watchdog: Option<Duration>, beats: u32, answer: bool) -> u32 {
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let (count, (open, wait)) = (Arc::clone(&asked), std::sync::mpsc::channel::<()>());
        let wait = std::sync::Mutex::new(wait);
        let manager = Manager { listens: false, watchdog };
        let mut heart = manager.heart(move || {
            count.fetch_add(1, Ordering::SeqCst);
            // Hangs until the other end is gone.
            answer || wait.lock().unwrap().recv().is_ok()
        });
        for _ in 0..beats {
            Heart::due(&mut heart).await;
            heart.as_ref().unwrap().beat();
            if answer {
                let idle = || !heart.as_ref().unwrap().asking.load(Ordering::SeqCst);
                while !idle() {
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(open);
        asked.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_store_that_hangs_is_asked_once_and_gives_no_beat() {
        assert_eq!(asked_by(Some(Duration::from_millis(6)), 4, true).await, 4);
        assert!(asked_by(Some(Duration::from_millis(6)), 4, false).await <= 1);
    }

    #[tokio::test]
    async fn without_a_watchdog_there_is_no_heart() {
        let mut none = Manager { listens: true, watchdog: None }.heart(|| true);
        assert!(none.is_none());
        let due = tokio::time::timeout(Duration::from_millis(20), Heart::due(&mut none)).await;
        assert!(due.is_err(), "a beat without a watchdog");
    }
}
