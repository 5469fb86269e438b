//! The system of a sandbox from an OCI image instead of the host's `/usr`.
//!
//! [`install`] reads an image layout (a directory, or a tar of one), picks the manifest for this machine,
//! verifies every blob against its digest while it reads it, and unpacks the layers into a directory that is
//! named by the manifest's digest and never changed again. [`Image::find`] finds it. Whatever an image holds is
//! taken to be hostile: nothing is ever made through a link, and nothing outside of the new directory.
//!
//! Formats: the OCI image specification 1.1 (`image-layout.md`, `manifest.md`, `layer.md`).
#![forbid(unsafe_code)]

mod archive;
mod blob;
mod choose;
mod document;
mod entry;
mod error;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod image;
mod install;
mod layer;
mod start;
mod tree;
mod way;

pub use error::ImageError;
pub use files::Depth;
pub use image::{Image, remove_unused};
pub use install::{Installed, Progress, install, repair};
pub use start::Start;
