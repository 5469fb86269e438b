//! Secrets that agents use and never hold: their names, and never more of them, are shown.

use std::io::{IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::Subcommand;
use clawkeep_credentials::{BoundHost, CredentialName};
use clawkeep_daemon::api::credentials::{
    CredentialOrder, CredentialStatus, NewCredential, ROUTE_KEY, SecretText,
};
use clawkeep_daemon::api::{Request, Value};
use clawkeep_store::{MAX_SECRET, Source};
use serde_json::json;

use super::onboard::ask::{Ask, Terminal};
use super::{name_in, sandbox};
use crate::host::{Host, unexpected};
use crate::problem::{Outcome, Problem};
use crate::{output, view};

const HELP: &str = "clawkeep credentials add --help";

/// What `credentials` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to do with them.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show their names, and where they may go
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Store one, or another value of one; agents go on running
    Add(Add),
    /// Forget the value of one and ask for another
    Reset {
        /// Its name
        credential: String,
    },
    /// Forget one
    Remove {
        /// Its name
        credential: String,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The value is asked for without showing it; where there is no terminal it is read from standard input. It is never\n\
    taken from the command line, which every user of the machine can read.\n\
    An agent writes clawkeep:secret:NAME where the value belongs: as a header's whole value, after its scheme, or as user\n\
    or password of Basic. On the way out it becomes the value, toward the hosts of --host alone.\n\
    `credentials add route-key --sandbox S` sets another key behind the sandbox's inference.local."
)]
struct Add {
    /// Its name: a letter, then letters, digits, '_' and '-'
    credential: String,
    /// A host that it may be sent to, over TLS; port 443 if none is given. Without: as before
    #[arg(long = "host", value_name = "HOST[:PORT]")]
    hosts: Vec<String>,
    /// The one sandbox that may use it. Without: as before, at first every sandbox
    #[arg(long, value_name = "NAME")]
    sandbox: Option<String>,
    /// Run this outside of every sandbox when the value is needed; what it prints is kept in memory only
    #[arg(long, value_name = "CMD", conflicts_with = "from_env")]
    from_command: Option<String>,
    /// How long one value of the command is used, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400), requires = "from_command")]
    ttl: u64,
    /// Take the value from this variable, once
    #[arg(long, value_name = "VAR")]
    from_env: Option<String>,
}

/// `credentials list`, `add`, `reset` and `remove`.
pub fn run(host: &Host, options: Options) -> Outcome {
    match options.action {
        Action::List { json } => list(host, json),
        Action::Add(options) => add(host, options),
        Action::Reset { credential } => reset(host, &credential),
        Action::Remove { credential } => {
            let credential = name_of(&credential)?;
            if credential.as_str() == ROUTE_KEY {
                return Err(of_a_route());
            }
            let order = CredentialOrder::Remove { credential: credential.clone() };
            host.order(&Request::Credential(order), |_| ())?;
            output::print(&format!("{credential} is forgotten\n"));
            Ok(0)
        }
    }
}

fn list(host: &Host, json: bool) -> Outcome {
    let credentials = if host.root().join("secrets").is_dir() { all(host)? } else { Vec::new() };
    if json {
        output::print_json(&json!({"schema": 1, "credentials": credentials}));
    } else {
        output::print(&view::credentials(&credentials));
    }
    Ok(0)
}

fn all(host: &Host) -> Result<Vec<CredentialStatus>, Problem> {
    match host.order(&Request::Credentials, |_| ())? {
        Value::Credentials(all) => Ok(all),
        _ => Err(unexpected()),
    }
}

fn add(host: &Host, options: Add) -> Outcome {
    let credential = name_of(&options.credential)?;
    let of_sandbox = name_in(options.sandbox.as_ref())?;
    let parsed = options.hosts.iter().map(|host| host.parse::<BoundHost>()).collect::<Result<Vec<_>, _>>();
    let hosts = parsed.map_err(|error| Problem::usage("bad-host", error.to_string(), HELP))?;
    if credential.as_str() == ROUTE_KEY {
        if !hosts.is_empty() || options.from_command.is_some() || of_sandbox.is_none() {
            let message = "a route's key is for its sandbox and its provider alone: give --sandbox, and no host and no command";
            return Err(Problem::usage(
                "route-key",
                message,
                "clawkeep credentials add route-key --sandbox NAME",
            ));
        }
        let (_, value) = read(host, options.from_env, &credential)?;
        return rotate(host, options.sandbox.as_ref(), value);
    }
    let (source, value) = match options.from_command {
        Some(line) => (Source::Command { argv: argv(host, &line)?, ttl: options.ttl }, None),
        None => {
            let (source, value) = read(host, options.from_env, &credential)?;
            (source, Some(value))
        }
    };
    store(host, NewCredential { credential, hosts, sandbox: of_sandbox, source, value })
}

fn store(host: &Host, new: NewCredential) -> Outcome {
    let name = new.credential.clone();
    host.order(&Request::Credential(CredentialOrder::Add(Box::new(new))), |_| ())?;
    let stored = all(host)?.into_iter().find(|one| one.name == name.as_str()).ok_or_else(unexpected)?;
    let who = stored.sandbox.map_or("every sandbox".to_owned(), |sandbox| sandbox.to_string());
    let hosts = stored.hosts.join(", ");
    output::print(&format!("{name} is set: {who} may send clawkeep:secret:{name} to {hosts}\n"));
    Ok(0)
}

fn reset(host: &Host, credential: &str) -> Outcome {
    let credential = name_of(credential)?;
    if credential.as_str() == ROUTE_KEY {
        return Err(of_a_route());
    }
    host.order(&Request::Credential(CredentialOrder::Reset { credential: credential.clone() }), |_| ())?;
    let empty = |one: &CredentialStatus| one.name == credential.as_str() && one.state == "empty";
    if !all(host)?.iter().any(empty) {
        output::print(&format!("{credential} is asked of its command again\n"));
        return Ok(0);
    }
    if !std::io::stdin().is_terminal() {
        output::print(&format!(
            "{credential} is forgotten; set it again: clawkeep credentials add {credential}\n"
        ));
        return Ok(0);
    }
    let (source, value) = read(host, None, &credential)?;
    store(host, NewCredential { credential, hosts: Vec::new(), sandbox: None, source, value: Some(value) })
}

/// Another key for the same model. The agent goes on running.
fn rotate(host: &Host, of: Option<&String>, key: SecretText) -> Outcome {
    let found = sandbox(host, of)?;
    if found.route.provider == "canary" {
        let message = format!("{} uses the built-in canary, which takes no key", found.name);
        return Err(Problem::new("route-key", message, "clawkeep inference set --help"));
    }
    let name = found.name;
    let Value::RouteSet { warning, .. } =
        host.ask(&Request::RotateKey { name: name.clone(), key }, |_| ())?
    else {
        return Err(unexpected());
    };
    output::print(&format!("the key of {name}'s model is set; its agent goes on running\n"));
    match warning {
        Some(why) => Err(why.into()),
        None => Ok(0),
    }
}

fn of_a_route() -> Problem {
    let message = "a route's key is replaced, or goes with its route";
    Problem::usage("route-key", message, "clawkeep credentials add route-key --sandbox NAME")
}

fn name_of(text: &str) -> Result<CredentialName, Problem> {
    let next = "clawkeep credentials list";
    text.parse().map_err(|error: clawkeep_credentials::CredentialNameError| {
        Problem::usage("bad-credential-name", error.to_string(), next)
    })
}

/// The value: from the variable, else from the person, else from standard input.
fn read(
    host: &Host,
    variable: Option<String>,
    name: &CredentialName,
) -> Result<(Source, SecretText), Problem> {
    if let Some(variable) = variable {
        let Some((variable, value)) = host.env.first(&[&variable])? else {
            return Err(Problem::usage("value-missing", format!("{variable} is not set"), HELP));
        };
        return Ok((Source::Variable { variable }, SecretText::new(value)));
    }
    if std::io::stdin().is_terminal() {
        let asked = Terminal.secret(&format!("Value of {name} (not shown)"));
        let value = asked.map_err(|problem| Problem::new("value-missing", problem.failure.message, HELP))?;
        return Ok((Source::Typed, SecretText::new(value)));
    }
    let mut value = String::new();
    let mut input = std::io::stdin().lock().take(MAX_SECRET as u64 + 1);
    if input.read_to_string(&mut value).is_err() {
        return Err(Problem::usage("value-missing", "standard input cannot be read as text", HELP));
    }
    // What `echo` and `pass` add.
    value.truncate(value.strip_suffix('\n').unwrap_or(&value).len());
    if value.is_empty() {
        return Err(Problem::usage("value-missing", "standard input is empty", HELP));
    }
    Ok((Source::Stdin, SecretText::new(value)))
}

/// The command's words, as a shell would split them; none runs it. Its program is looked up once, here and now:
/// later nobody's PATH counts.
fn argv(host: &Host, line: &str) -> Result<Vec<String>, Problem> {
    let bad = |message: String| Problem::usage("bad-command", message, HELP);
    let mut argv = shlex::split(line).ok_or_else(|| bad("the command has an open quote".into()))?;
    let program = argv.first_mut().ok_or_else(|| bad("the command is empty".into()))?;
    let found = find(program, host.env.exact("PATH").as_deref());
    *program = found
        .and_then(|path| path.into_os_string().into_string().ok())
        .ok_or_else(|| bad(format!("there is no program {program:?}")))?;
    Ok(argv)
}

fn find(program: &str, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let runs = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return std::path::absolute(program).ok().filter(runs);
    }
    let absolute = std::env::split_paths(path?).filter(|directory| directory.is_absolute());
    absolute.map(|directory| directory.join(program)).find(runs)
}
