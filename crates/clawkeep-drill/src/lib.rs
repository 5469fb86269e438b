//! The drill: attempts to get out of a sandbox, run inside it, each with the answer that it must get and a
//! legitimate neighbour that must go on working.
//!
//! Attempts are data ([`attempts`]). Most are system calls that a small static program makes (`payload/`), some
//! are scripts. What they say is never believed where the host can see for itself: [`Canaries`] are things on the
//! host that nothing inside may reach. The same suite runs against any [`Target`].
#![forbid(unsafe_code)]

mod answer;
mod attempt;
mod attempts;
mod canaries;
mod config;
mod judge;
mod local;
mod payload;
mod recovery;
mod render;
mod scorecard;
mod scripts;
mod suite;
mod target;
mod walls;
mod words;

pub use attempt::Group;
pub use canaries::Canaries;
pub use local::Local;
pub use payload::{payload, sealed_payload};
pub use render::{Rendered, render};
pub use scorecard::{Change, Judged, Outcome, Scorecard, Scored, Totals};
pub use suite::{Drill, Settings, names};
pub use target::{Places, Program, Recovered, Runtime, Said, Target, TargetError, Traits, Walls};
