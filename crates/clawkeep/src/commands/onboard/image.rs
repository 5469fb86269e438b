use std::path::Path;

use clawkeep_agents::Cancel;
use clawkeep_image::{ImageError, Installed, Progress, install};
use clawkeep_store::Home;

use super::report::Report;
use crate::problem::Problem;

/// Unpack the image, where it is not there yet. It stays for as long as what this gives is held.
///
/// # Errors
/// Why it cannot be a sandbox's system.
pub fn prepare(home: &Home, from: &Path, cancel: &Cancel, report: &mut Report) -> Result<Installed, Problem> {
    report.begin("system", &format!("reading {}", from.display()));
    let installed = install(&home.images(), from, &|time| cancel.wait(time), &mut |step| match step {
        Progress::Waiting => report.progress("another installation is at work: waiting for it", ""),
        Progress::Unpacking { layer, of, bytes } => {
            report.progress(
                "verifying and unpacking",
                &format!(" (layer {layer} of {of}, {} MB)", bytes / 1_000_000),
            );
        }
        Progress::Syncing => report.progress("writing it to the disk", ""),
    })
    .map_err(problem)?;
    let how = match installed.cached {
        true => "cached".to_owned(),
        false => format!("{} MB", installed.image.bytes().div_ceil(1_000_000)),
    };
    report.done("system", &format!("{}       ({how})", installed.image.title()));
    Ok(installed)
}

fn problem(error: ImageError) -> Problem {
    Problem::new(error.code(), error.to_string(), error.next_step())
}
