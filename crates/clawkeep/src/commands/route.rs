//! A provider and a model, as a person names them: checked as far as that goes without touching anything.

use clawkeep_daemon::api::RouteChoice;
use clawkeep_inference::{Provider, Route, Secret, Service};

use super::onboard::ask::Ask;
use crate::env::Env;
use crate::output;
use crate::problem::Problem;

/// The provider of this name. `help` is the command to look at when there is none.
///
/// # Errors
/// `bad-provider`.
pub fn provider(name: &str, help: &str) -> Result<Provider, Problem> {
    Provider::parse(name).map_err(|error| Problem::usage("bad-provider", error.to_string(), help))
}

/// The models that this provider lists, asked from here; whichever model the route names does not matter.
///
/// # Errors
/// What keeps the provider from answering.
pub fn models(choice: &RouteChoice) -> Result<Vec<String>, Problem> {
    let unusable = |error: &dyn std::fmt::Display| {
        Problem::usage("route-unusable", error.to_string(), "clawkeep inference models --help")
    };
    let provider = Provider::parse(&choice.provider).map_err(|error| unusable(&error))?;
    let url = choice.endpoint_url.as_deref();
    let route = Route::new(provider, url, "any", choice.key.is_some()).map_err(|error| unusable(&error))?;
    let key = choice.key.clone().map(Secret::new);
    let service = Service::new(route, key).map_err(|error| unusable(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unusable(&error))?;
    runtime.block_on(service.models()).map_err(|problem| clawkeep_daemon::route_failure(&problem).into())
}

/// A route that lacks nothing but its key, and its model where a person can be asked.
#[derive(Debug)]
pub struct Wanted {
    provider: Provider,
    name: String,
    model: Option<String>,
    endpoint_url: Option<String>,
}

/// How many models are shown to choose from.
const SHOWN: usize = 40;

impl Wanted {
    /// The route; `None` is the built-in canary, which needs nothing. `interactive`: a person can be asked.
    ///
    /// # Errors
    /// `bad-provider`, `endpoint-missing`, `model-missing`.
    pub fn new(
        name: &str,
        model: Option<String>,
        endpoint_url: Option<String>,
        interactive: bool,
        help: &str,
    ) -> Result<Option<Self>, Problem> {
        let provider = provider(name, help)?;
        if provider == Provider::Canary {
            return Ok(None);
        }
        if endpoint_url.is_none() && provider.default_base_url().is_none() {
            let message = format!("provider {name} needs the URL of its endpoint");
            return Err(Problem::usage("endpoint-missing", message, "add --endpoint-url URL"));
        }
        let wanted = Self { provider, name: name.to_owned(), model, endpoint_url };
        if wanted.model.is_none() && !interactive {
            return Err(wanted.model_missing());
        }
        Ok(Some(wanted))
    }

    fn model_missing(&self) -> Problem {
        let at = self.endpoint_url.as_ref().map(|url| format!(" --endpoint-url {url}")).unwrap_or_default();
        let next = format!("clawkeep inference models --provider {}{at}, then add --model M", self.name);
        Problem::usage("model-missing", format!("provider {} needs a model", self.name), &next)
    }

    /// The same with its key: from the provider's variable, else from the person. Never from the command line:
    /// every user of the machine can read that. A model that is not named yet is chosen by the person, from what the
    /// provider lists.
    ///
    /// # Errors
    /// `key-missing`, where the provider answers nothing without; `model-missing`.
    pub fn with_key(self, env: &Env, interactive: bool, ask: &mut dyn Ask) -> Result<RouteChoice, Problem> {
        let key = key(self.provider, env, interactive, ask)?;
        let missing = self.model_missing();
        let Self { name, model, endpoint_url, .. } = self;
        let mut choice = RouteChoice { provider: name, endpoint_url, model: String::new(), key };
        choice.model = match model {
            Some(model) => model,
            None => choose(&ask.models(&choice), &choice.provider, ask)?.ok_or(missing)?,
        };
        Ok(choice)
    }
}

/// The key of a provider, if it has one.
///
/// # Errors
/// `key-missing`, where it answers nothing without.
pub fn key(
    provider: Provider,
    env: &Env,
    interactive: bool,
    ask: &mut dyn Ask,
) -> Result<Option<String>, Problem> {
    let variables = provider.key_variables();
    let mut key = env.first(variables)?.map(|(_, key)| key);
    if key.is_none() && interactive && !variables.is_empty() {
        key = Some(ask.secret(&format!("Key for {provider} (not shown, may be empty)"))?)
            .filter(|key| !key.is_empty());
    }
    if key.is_none() && provider.needs_key() {
        let message = format!("provider {provider} needs a key");
        return Err(Problem::usage(
            "key-missing",
            message,
            &format!("export {}=...", variables.join(" or ")),
        ));
    }
    Ok(key)
}

/// One of these models, by its number or its name, or any other by its name.
fn choose(listed: &[String], provider: &str, ask: &mut dyn Ask) -> Result<Option<String>, Problem> {
    let mut question = String::new();
    for (index, model) in listed.iter().take(SHOWN).enumerate() {
        question += &output::clean(&format!("{:>4}  {model}\n", index + 1));
    }
    if listed.len() > SHOWN {
        let more = listed.len() - SHOWN;
        question += &format!("      and {more} more: clawkeep inference models --provider {provider}\n");
    }
    question += if listed.is_empty() { "Model" } else { "Model (its name, or its number)" };
    let only = if let [only] = listed { Some(only.as_str()) } else { None };
    let said = ask.line(&question, only)?;
    let shown = &listed[..listed.len().min(SHOWN)];
    let by_number = said.parse::<usize>().ok().and_then(|number| shown.get(number.checked_sub(1)?));
    Ok(Some(by_number.cloned().unwrap_or(said)).filter(|model| !model.is_empty()))
}
