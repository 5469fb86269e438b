//! A provider and a model, as a person names them: checked as far as that goes without touching anything.

use clawkeep_daemon::api::RouteChoice;
use clawkeep_inference::Provider;

use super::onboard::ask::Ask;
use crate::env::Env;
use crate::problem::Problem;

/// The provider of this name. `help` is the command to look at when there is none.
///
/// # Errors
/// `bad-provider`.
pub fn provider(name: &str, help: &str) -> Result<Provider, Problem> {
    Provider::parse(name).map_err(|error| Problem::usage("bad-provider", error.to_string(), help))
}

/// A route that lacks nothing but its key.
#[derive(Debug)]
pub struct Wanted {
    provider: Provider,
    name: String,
    model: String,
    endpoint_url: Option<String>,
}

impl Wanted {
    /// The route; `None` is the built-in canary, which needs nothing.
    ///
    /// # Errors
    /// `bad-provider`, `endpoint-missing`, `model-missing`.
    pub fn new(
        name: &str,
        model: Option<String>,
        endpoint_url: Option<String>,
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
        let Some(model) = model else {
            let message = format!("provider {name} needs a model");
            return Err(Problem::usage("model-missing", message, "add --model M"));
        };
        Ok(Some(Self { provider, name: name.to_owned(), model, endpoint_url }))
    }

    /// The same with its key: from the provider's variable, else from the person. Never from the command line:
    /// every user of the machine can read that.
    ///
    /// # Errors
    /// `key-missing`, where the provider answers nothing without.
    pub fn with_key(self, env: &Env, interactive: bool, ask: &mut dyn Ask) -> Result<RouteChoice, Problem> {
        let Self { provider, name, model, endpoint_url } = self;
        let variables = provider.key_variables();
        let mut key = env.first(variables)?.map(|(_, key)| key);
        if key.is_none() && interactive && !variables.is_empty() {
            key = Some(ask.secret(&format!("Key for {name} (not shown, may be empty)"))?)
                .filter(|key| !key.is_empty());
        }
        if key.is_none() && provider.needs_key() {
            let message = format!("provider {name} needs a key");
            return Err(Problem::usage(
                "key-missing",
                message,
                &format!("export {}=...", variables.join(" or ")),
            ));
        }
        Ok(RouteChoice { provider: name, endpoint_url, model, key })
    }
}
