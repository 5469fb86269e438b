//! The model behind a sandbox: which one, and another one in its place. The sandbox and its files stay.

use clap::Subcommand;
use clawkeep_daemon::api::{Request, RouteChoice, SandboxStatus, Value};
use clawkeep_inference::CANARY_MODEL;
use serde_json::json;

use super::onboard::{ask, report::Report};
use super::{brief, route, sandbox, wait_ready, wait_relaunched};
use crate::cli::Which;
use crate::host::{Host, unexpected};
use crate::problem::{Outcome, Problem};
use crate::{output, terminal, view};

/// What `inference` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to do with it.
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show provider, model and endpoint
    Get(Get),
    /// Set another provider and model; the sandbox and its files stay
    Set(SetOptions),
    /// Add another provider, asked when those before it give no answer; nothing restarts
    AddFallback(Set),
    /// Ask nobody but the provider that is set
    RemoveFallbacks(Get),
    /// Show the models that a provider lists; no sandbox is needed
    Models(Models),
}

#[derive(Debug, clap::Args)]
struct Get {
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A key is only taken from its variable: COMPATIBLE_API_KEY for custom, COMPATIBLE_ANTHROPIC_API_KEY for\n\
    anthropicCompatible, and NVIDIA_API_KEY (build), OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY,\n\
    OPENROUTER_API_KEY; at a terminal it is asked for. It stays outside the sandbox."
)]
struct Set {
    #[command(flatten)]
    which: Which,
    /// Who answers for the model: ollama, vllm, nim-local, llamacpp, build, openai, anthropic, gemini, openrouter, custom,
    /// anthropicCompatible, canary
    #[arg(long, value_name = "P")]
    provider: String,
    /// The model's name at the provider
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// The provider's base URL, if not its usual one
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
}

#[derive(Debug, clap::Args)]
struct SetOptions {
    #[command(flatten)]
    route: Set,
    /// Set it though its provider does not answer
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "A key is taken from the provider's variable, as by `inference set`.")]
struct Models {
    /// Whose
    #[arg(long, value_name = "P")]
    provider: String,
    /// The provider's base URL, if not its usual one
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `inference get [NAME]` and `inference set [NAME]`.
pub fn run(host: &Host, options: &Options) -> Outcome {
    match &options.action {
        Action::Get(options) => get(host, options),
        Action::Set(options) => set(host, options),
        Action::AddFallback(options) => add_fallback(host, options),
        Action::RemoveFallbacks(options) => remove_fallbacks(host, options),
        Action::Models(options) => models(host, options),
    }
}

fn get(host: &Host, options: &Get) -> Outcome {
    let SandboxStatus { name, route, .. } = sandbox(host, options.which.name.as_ref())?;
    if options.json {
        output::print_json(&json!({
            "schema": 1, "name": name,
            "provider": route.provider, "model": route.model, "endpoint_url": route.endpoint_url,
            "fallbacks": route.fallbacks,
        }));
    } else {
        let mut text = format!("{name}: {}\n", view::model(&route));
        for fallback in &route.fallbacks {
            text += &format!("  else {}\n", view::model(fallback));
        }
        output::print(&output::clean(&text));
    }
    Ok(0)
}

fn models(host: &Host, options: &Models) -> Outcome {
    let provider = route::provider(&options.provider, "clawkeep inference models --help")?;
    let key = route::key(provider, &host.env, terminal::is_interactive(), &mut ask::Terminal)?;
    let route = RouteChoice {
        provider: provider.to_string(),
        endpoint_url: options.endpoint_url.clone(),
        model: String::new(),
        key,
    };
    let listed = route::models(&route)?;
    if options.json {
        output::print_json(&json!({"schema": 1, "provider": route.provider, "models": listed}));
    } else if listed.is_empty() {
        output::print(&format!("{provider} lists no models\n"));
    } else {
        output::print(&output::clean(&(listed.join("\n") + "\n")));
    }
    Ok(0)
}

/// The route that is meant, with its key.
fn choice(host: &Host, options: &Set, command: &str) -> Result<RouteChoice, Problem> {
    let (model, url) = (options.model.clone(), options.endpoint_url.clone());
    let (interactive, help) = (terminal::is_interactive(), format!("clawkeep inference {command} --help"));
    let wanted = route::Wanted::new(&options.provider, model, url, interactive, &help)?;
    // Before anybody is asked for a key.
    sandbox(host, options.which.name.as_ref())?;
    match wanted {
        Some(wanted) => wanted.with_key(&host.env, interactive, &mut ask::Terminal),
        None => Ok(RouteChoice {
            provider: options.provider.clone(),
            endpoint_url: None,
            model: CANARY_MODEL.to_owned(),
            key: None,
        }),
    }
}

fn add_fallback(host: &Host, options: &Set) -> Outcome {
    let route = choice(host, options, "add-fallback")?;
    let name = sandbox(host, options.which.name.as_ref())?.name;
    let mut report = Report::new(output::is_terminal(), host.env.exact("NO_COLOR").is_none());
    report.begin("fall-back", "asking the provider one question");
    let answer = host.ask(&Request::AddFallback { name, route }, |_| ());
    let answer = answer.inspect_err(|problem| report.fail("fall-back", &problem.failure.message, None))?;
    let Value::RouteSet { sandbox: found, warning, .. } = answer else { return Err(unexpected()) };
    let what = found.route.fallbacks.last().map(view::model).unwrap_or_default();
    let after = found.route.fallbacks.len();
    match warning {
        None => {
            report.done("fall-back", &format!("{what}: it answers, and is asked as number {}", after + 1))
        }
        Some(why) => {
            report.warn("fall-back", &format!("{what}: added, but {}", why.message), why.next.as_deref())
        }
    }
    Ok(0)
}

fn remove_fallbacks(host: &Host, options: &Get) -> Outcome {
    let name = sandbox(host, options.which.name.as_ref())?.name;
    match host.ask(&Request::RemoveFallbacks { name }, |_| ())? {
        Value::Sandbox(_) => get(host, options),
        _ => Err(unexpected()),
    }
}

fn set(host: &Host, SetOptions { route: options, force }: &SetOptions) -> Outcome {
    let route = choice(host, options, "set")?;
    let SandboxStatus { name, route: before, .. } = sandbox(host, options.which.name.as_ref())?;
    let mut report = Report::new(output::is_terminal(), host.env.exact("NO_COLOR").is_none());
    report.begin("model", "asking the provider one question");
    let answer = host.ask(&Request::SetRoute { name: name.clone(), route, force: *force }, |_| ());
    let answer = answer.inspect_err(|problem| report.fail("model", &problem.failure.message, None))?;
    let Value::RouteSet { sandbox: found, restarts, warning } = answer else { return Err(unexpected()) };
    let what = view::model(&found.route);
    if let Some(gone) = before.fallbacks.first() {
        let gone = format!("without the fall-backs of before ({}, ...)", view::model(gone));
        let next = format!("clawkeep {name} inference add-fallback --help");
        report.warn("fall-back", &gone, Some(&next));
    }
    if let Some(why) = &warning {
        report.warn("model", &format!("{what}: set, but {}", why.message), why.next.as_deref());
    }
    if !found.should_run {
        report.done("gateway", &format!("{name} is stopped: it has this model when it is started"));
    } else if restarts {
        report.begin("gateway", "restarting with the new model");
        let now = wait_relaunched(host, &found);
        let now = now.map_err(|problem| after_all(problem, &what, &mut report))?;
        report.done("gateway", &format!("was {}, is {}", brief(&found), brief(&now)));
    } else {
        report.begin("gateway", "looking");
        let now = wait_ready(host, &name, |_| ());
        let now = now.map_err(|problem| after_all(problem, &what, &mut report))?;
        report.done("gateway", &format!("{}, not restarted", brief(&now)));
    }
    if warning.is_none() {
        answered(host, &found, &what, &mut report);
    }
    Ok(0)
}

/// One turn, where the agent takes any and runs.
fn answered(host: &Host, found: &SandboxStatus, what: &str, report: &mut Report) {
    let name = &found.name;
    if found.agent.name != "openclaw" || !found.should_run {
        return report.done("model", &format!("{what}: the route answers"));
    }
    report.begin("model", "asking the agent one question");
    match host.ask(&Request::Turn { name: name.clone(), message: "hello".into() }, |_| ()) {
        Ok(_) => report.done("model", &format!("{what}: one turn answered")),
        Err(problem) => {
            let next = problem.failure.next.unwrap_or_else(|| format!("clawkeep {name} agent -m hello"));
            report.warn("model", &format!("{what}: set, but {}", problem.failure.message), Some(&next));
        }
    }
}

/// What went wrong when it was set already.
fn after_all(mut problem: Problem, what: &str, report: &mut Report) -> Problem {
    report.fail_current(&problem.failure.message);
    problem.failure.message = format!("{what} is set, but {}", problem.failure.message);
    problem
}
