//! Installing an agent from npm into a content-addressed bundle.

mod bundle;
mod error;
mod installed;
mod installer;
mod manifest;
mod npm;
mod release;
#[cfg(test)]
mod tests;

pub use bundle::{Bundle, BundleError};
pub use error::InstallError;
pub use installer::{Progress, install, repair};
pub use npm::Npm;
pub use release::{Generation, NodePin, Release};
