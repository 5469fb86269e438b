use std::path::Path;

use clawkeep_agents::Cancel;
use clawkeep_daemon::api::ImageChoice;
use clawkeep_image::{ImageError, Installed, Progress, install};
use clawkeep_store::Home;

use super::report::Report;
use crate::output;
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

/// Where programs of an image are looked for that says nothing of it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the daemon is to be told of it; its command too, where it has one that can be started. What of its
/// configuration is not taken up is said.
pub fn choice(installed: &Installed, report: &mut Report) -> ImageChoice {
    let Installed { image, start, .. } = installed;
    if !start.dropped.is_empty() {
        let names = start.dropped.join(", ");
        report.warn("system", &format!("of its variables these are not taken: {names}"), None);
    }
    if let Some(user) = start.user.as_ref().filter(|user| !matches!(user.as_str(), "sandbox" | "998")) {
        let text = format!("its user {user} is not taken: the agent is the sandbox's own user");
        report.warn("system", &text, None);
    }
    let cwd = start.working_dir.as_ref().filter(|dir| *dir != "/");
    let shown = cwd.filter(|dir| image.shows_directory(dir));
    if let (Some(dir), None) = (cwd, shown) {
        let dir = output::clean(dir);
        report.warn(
            "system",
            &format!("its directory {dir} is not in it: the agent begins in /sandbox"),
            None,
        );
    }
    let path = start.env.get("PATH").map_or(PATH, String::as_str);
    let command = start
        .command
        .first()
        .and_then(|word| image.program(word, path))
        .map(|program| [program].into_iter().chain(start.command.iter().skip(1).cloned()).collect());
    ImageChoice { digest: image.digest(), env: start.env.clone(), cwd: shown.cloned(), command }
}

/// The command of an image whose agent nobody named.
///
/// # Errors
/// When it has none, or one that is not in it.
pub fn command(installed: &Installed, choice: &ImageChoice) -> Result<Vec<String>, Problem> {
    let next = "clawkeep onboard --agent command --from PATH -- CMD ARG...";
    choice.command.clone().ok_or_else(|| match installed.start.command.first() {
        None => Problem::new("image-no-command", "the image names no command of its own", next),
        Some(word) => {
            let message = format!("the image's command {word:?} is no program in it");
            Problem::new("image-no-command", message, next)
        }
    })
}

fn problem(error: ImageError) -> Problem {
    Problem::new(error.code(), error.to_string(), error.next_step())
}
