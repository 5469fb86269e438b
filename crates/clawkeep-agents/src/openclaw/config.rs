use serde_json::{Map, Value, json};

use super::Token;

/// The name under which the model route appears in OpenClaw's configuration.
pub const PROVIDER: &str = "inference";

/// How the agent speaks to its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelApi {
    /// OpenAI's chat completions.
    OpenAiCompletions,
    /// Anthropic's messages.
    AnthropicMessages,
}

impl ModelApi {
    /// OpenClaw's word for it.
    fn word(self) -> &'static str {
        match self {
            Self::OpenAiCompletions => "openai-completions",
            Self::AnthropicMessages => "anthropic-messages",
        }
    }

    /// Where it is answered inside every sandbox. OpenClaw's client for Anthropic adds `/v1` itself.
    fn base_url(self) -> &'static str {
        match self {
            Self::OpenAiCompletions => "https://inference.local/v1",
            Self::AnthropicMessages => "https://inference.local",
        }
    }
}

/// The context window that is assumed for a model nothing else is known about, in tokens.
pub const CONTEXT_WINDOW: u64 = 128_000;

/// The model that the agent uses, by the route's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The model's name as the provider knows it: `hermes3:8b`.
    pub model: String,
    /// What its provider speaks.
    pub api: ModelApi,
}

/// The configuration that a new sandbox gets. Every key is one that 2026.4.9 and 2026.9.6 both know: an unknown
/// key keeps them from starting.
///
/// The dashboard needs no list of allowed origins: a peer on the loopback with a loopback origin, whatever its
/// port, is accepted by both.
pub fn initial_config(token: &Token, port: u16, route: &Route) -> Value {
    let base = json!({
        "gateway": {
            "mode": "local",
            // Said outright: in what they take for a container the default is every interface.
            "bind": "loopback",
            "port": port,
            "auth": { "mode": "token", "token": token.expose() },
            "http": { "endpoints": { "chatCompletions": { "enabled": true } } },
        },
        // There is no one to discover in an empty network namespace, and the library for it is what crashed.
        "discovery": { "mdns": { "mode": "off" } },
        "update": { "checkOnStart": false },
        // It runs `npm exec` at start.
        "plugins": { "entries": { "acpx": { "enabled": false } } },
        "agents": { "defaults": { "skipBootstrap": true, "heartbeat": { "every": "0m" } } },
        "models": { "mode": "merge" },
    });
    set_route(base, route)
}

/// The same configuration with the model route of `route`; every other key stays as the user left it. Where
/// something that is no object stands in the way, it is replaced (OpenClaw refuses it anyway).
pub fn set_route(mut config: Value, route: &Route) -> Value {
    let model = json!({
        "id": route.model, "name": route.model, "reasoning": false, "input": ["text"],
        "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
        "contextWindow": CONTEXT_WINDOW, "maxTokens": 4096,
    });
    let provider = object(&mut config, &["models", "providers", PROVIDER]);
    // What the user tuned for this very model stays.
    let known = provider.get("models").and_then(Value::as_array).and_then(|models| {
        models.iter().find(|known| known["id"] == model["id"] && known.is_object()).cloned()
    });
    provider.insert("baseUrl".into(), json!(route.api.base_url()));
    // The key is put in outside the sandbox; OpenClaw wants a text here.
    provider.insert("apiKey".into(), json!("provided-by-the-route"));
    provider.insert("api".into(), json!(route.api.word()));
    provider.insert("models".into(), json!([known.unwrap_or(model)]));
    let defaults = object(&mut config, &["agents", "defaults", "model"]);
    defaults.insert("primary".into(), json!(format!("{PROVIDER}/{}", route.model)));
    config
}

/// The configuration of safe mode: what a new sandbox has, and no plugin at all. Channels are only those that a
/// configuration names.
pub fn safe_config(token: &Token, port: u16, route: &Route) -> Value {
    let mut config = initial_config(token, port, route);
    object(&mut config, &["plugins"]).insert("enabled".into(), json!(false));
    config
}

/// The token in a configuration, if it is a plain one.
pub fn token_of(config: &Value) -> Option<Token> {
    Token::parse(config.pointer("/gateway/auth/token")?.as_str()?).ok()
}

/// The object at this path, made where it is missing.
fn object<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { unreachable!("made an object above") };
    match path.split_first() {
        None => map,
        Some((key, rest)) => object(map.entry(*key).or_insert(Value::Null), rest),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(model: &str) -> Route {
        Route { model: model.into(), api: ModelApi::OpenAiCompletions }
    }

    #[test]
    fn the_first_configuration_has_what_openclaw_cannot_start_without() {
        let token = Token::parse("t").unwrap();
        let config = initial_config(&token, 18789, &route("hermes3:8b"));
        assert_eq!(config.pointer("/gateway/mode").unwrap(), "local");
        assert_eq!(config.pointer("/gateway/bind").unwrap(), "loopback");
        assert_eq!(config.pointer("/agents/defaults/model/primary").unwrap(), "inference/hermes3:8b");
        assert_eq!(
            config.pointer("/models/providers/inference/baseUrl").unwrap(),
            "https://inference.local/v1"
        );
        assert_eq!(token_of(&config), Some(token));
        assert_eq!(token_of(&json!({"gateway": {"auth": {"token": {"source": "env"}}}})), None);
    }

    #[test]
    fn another_route_leaves_the_users_keys_alone() {
        let user = json!({
            "channels": {"telegram": {"enabled": true}},
            "agents": {"defaults": {"model": {"primary": "x/y", "fallbacks": ["a/b"]}, "workspace": "/w"}},
            "models": {"providers": {
                "mine": {"baseUrl": "u"},
                "inference": {"headers": {"h": "1"}, "models": [{"id": "m", "contextWindow": 9}]},
            }},
        });
        let mut want = user.clone();
        let changed = set_route(user, &route("m"));
        assert_eq!(changed.pointer("/models/providers/inference/models/0/contextWindow").unwrap(), 9);
        want["agents"]["defaults"]["model"]["primary"] = json!("inference/m");
        for (key, value) in [
            ("baseUrl", json!("https://inference.local/v1")),
            ("apiKey", json!("provided-by-the-route")),
            ("api", json!("openai-completions")),
        ] {
            want["models"]["providers"]["inference"][key] = value;
        }
        assert_eq!(changed, want);
        // A plain text for the model, which OpenClaw allows, and a hopeless configuration.
        let plain = set_route(json!({"agents": {"defaults": {"model": "x/y"}}, "models": 3}), &route("m"));
        assert_eq!(plain.pointer("/agents/defaults/model").unwrap(), &json!({"primary": "inference/m"}));
        assert!(set_route(json!([]), &route("m")).is_object());
    }

    #[test]
    fn a_route_to_anthropic_is_spoken_to_as_such() {
        let token = Token::parse("t").unwrap();
        let anthropic = Route { model: "claude".into(), api: ModelApi::AnthropicMessages };
        let config = set_route(initial_config(&token, 18789, &route("m")), &anthropic);
        let provider = config.pointer("/models/providers/inference").unwrap();
        assert_eq!(provider["api"], "anthropic-messages");
        assert_eq!(provider["baseUrl"], "https://inference.local");
        assert_eq!(set_route(config, &route("m")), initial_config(&token, 18789, &route("m")));
    }

    proptest! {
        #[test]
        fn setting_a_route_twice_is_setting_it_once(model in "[a-z0-9:/.-]{1,20}", other in "[a-z]{1,8}") {
            let token = Token::parse("t").unwrap();
            let config = initial_config(&token, 18789, &route(&other));
            let once = set_route(config, &route(&model));
            prop_assert_eq!(set_route(once.clone(), &route(&model)), once.clone());
            prop_assert_eq!(token_of(&once), Some(token));
        }
    }
}
