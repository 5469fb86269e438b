//! A sandbox's policy while it runs: what the proxy decides by, exchanged in one step.

use std::sync::Arc;
use std::time::Duration;

use clawkeep_egress::{LivePolicy, Verdicts};
use clawkeep_plan::Digest;
use clawkeep_policy::Matcher;
use clawkeep_store::unix_ms;
use tokio::sync::watch;

use crate::api::EgressStatus;
use crate::policy::{Setting, allows};
use crate::refused::Refused;

/// The longest sleep until an approval ends: the clock by which it ends may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(600);

/// One sandbox's.
#[derive(Clone)]
pub struct Enforced {
    /// What the proxy decides by.
    pub live: LivePolicy,
    /// What it refused.
    pub refused: Arc<Refused>,
    /// How often it allowed and refused.
    pub verdicts: Arc<Verdicts>,
    setting: Arc<watch::Sender<Setting>>,
    told: Arc<watch::Sender<EgressStatus>>,
}

impl Enforced {
    /// Put this in force. What is no policy for this version opens nothing, and the status tells.
    pub fn new(setting: Setting, refused: Refused) -> Self {
        let enforced = Self {
            live: LivePolicy::new(Matcher::nothing()),
            refused: Arc::new(refused),
            verdicts: Arc::default(),
            setting: Arc::new(watch::Sender::new(Setting::default())),
            told: Arc::default(),
        };
        enforced.put(setting);
        enforced
    }

    /// The same where what the registry has cannot even be read.
    pub fn nothing(trouble: String) -> Self {
        let enforced = Self::new(Setting::default(), Refused::default());
        enforced.told.send_modify(|told| told.trouble = Some(trouble));
        enforced
    }

    /// Put another in its place.
    pub fn put(&self, setting: Setting) {
        self.compile(&setting);
        self.setting.send_replace(setting);
    }

    fn compile(&self, setting: &Setting) {
        let now_ms = unix_ms();
        let told = match setting.at(now_ms) {
            Ok(policy) => {
                self.live.replace(Matcher::new(&policy));
                self.refused.forget(|asked| allows(&policy, asked));
                setting.brief(now_ms, Digest::of(policy.to_yaml().as_bytes()))
            }
            Err(why) => {
                self.live.replace(Matcher::nothing());
                EgressStatus { trouble: Some(why.to_string()), ..EgressStatus::default() }
            }
        };
        self.told.send_replace(told);
    }

    /// For the status.
    pub fn status(&self) -> EgressStatus {
        EgressStatus { refused: self.refused.count(), ..self.told.borrow().clone() }
    }

    /// End each approval at its time. Never returns while there is somebody else who has this.
    pub async fn expire(self) {
        let mut setting = self.setting.subscribe();
        loop {
            let end = setting.borrow_and_update().next_end(unix_ms());
            let rest = end.map(|end| Duration::from_millis(end.saturating_sub(unix_ms())));
            let sleep = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest.min(LONGEST)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {
                    if end.is_some_and(|end| end <= unix_ms()) {
                        let setting = setting.borrow().clone();
                        self.compile(&setting);
                    }
                }
                changed = setting.changed() => if changed.is_err() { return },
            }
        }
    }
}
