use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::{Api, CANARY_MODEL, Provider, Secret};

/// How a route shows its key to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthScheme {
    /// It has none.
    None,
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
    /// `x-api-key`, as Anthropic has it.
    #[serde(rename = "x-api-key")]
    XApiKey,
}

impl AuthScheme {
    /// How keys are shown where this API is spoken.
    fn of(api: Api) -> Self {
        match api {
            Api::OpenAi => Self::Bearer,
            Api::Anthropic => Self::XApiKey,
        }
    }

    /// The header that carries the key, and what stands before it.
    fn header(self) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::None => None,
            Self::Bearer => Some((header::AUTHORIZATION, "Bearer ")),
            Self::XApiKey => Some((HeaderName::from_static("x-api-key"), "")),
        }
    }
}

/// The header that shows a key, ready to be put in.
pub(crate) type KeyHeader = (HeaderName, HeaderValue);

/// The most fall-backs of a route.
pub const MAX_FALLBACKS: usize = 4;

/// Where `inference.local` leads: durable, free of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Who answers.
    pub provider: Provider,
    /// Where, if not at the provider's usual place: `http://host:port/v1`. No credentials, query or fragment.
    pub base_url: Option<String>,
    /// The model that agents are configured with. Requests are passed on with the model that they name.
    pub model: String,
    /// How the key is shown.
    pub auth: AuthScheme,
    /// Who is asked when this one gives no answer, in this order. They have no fall-backs of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Route>,
}

/// Why a route cannot be used. No message holds the URL's user part or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The provider has no usual place and none was given.
    #[error("provider {0} needs an endpoint: give --endpoint-url URL")]
    NoEndpoint(Provider),
    /// The base URL cannot be used.
    #[error("the endpoint URL cannot be used: {0}")]
    BadUrl(&'static str),
    /// No model was named.
    #[error("provider {0} needs a model: give --model NAME")]
    NoModel(Provider),
    /// The provider answers nothing without a key.
    #[error("provider {provider} needs a key: set {}", .provider.key_variables().join(" or "))]
    NoKey {
        /// The provider.
        provider: Provider,
    },
    /// A fall-back that cannot be one.
    #[error("this fall-back cannot be used: {0}")]
    Fallback(&'static str),
    /// The key holds characters that no HTTP header can carry.
    #[error("the key for provider {0} holds characters that no HTTP header can carry (a line break?)")]
    BadKey(Provider),
}

/// A base URL, taken apart and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub https: bool,
    /// Host without brackets, for the resolver and for TLS.
    pub host: String,
    pub port: u16,
    /// `host[:port]` for the Host header.
    pub authority: String,
    /// Path below which the API lies, without a slash at the end.
    pub path: String,
}

impl Route {
    /// The route to the built-in canary.
    pub fn canary() -> Self {
        Self {
            provider: Provider::Canary,
            base_url: None,
            model: CANARY_MODEL.to_owned(),
            auth: AuthScheme::None,
            fallbacks: Vec::new(),
        }
    }

    /// A route to `provider`, with a key if `has_key`. An endpoint URL that is only the provider's usual one
    /// need not be given.
    ///
    /// # Errors
    /// [`RouteError`], when something that this provider needs is missing or cannot be used.
    pub fn new(
        provider: Provider,
        endpoint_url: Option<&str>,
        model: &str,
        has_key: bool,
    ) -> Result<Self, RouteError> {
        if provider == Provider::Canary {
            return Ok(Self::canary());
        }
        let route = Self {
            provider,
            base_url: endpoint_url.map(|url| url.trim().trim_end_matches('/').to_owned()),
            model: model.trim().to_owned(),
            auth: if has_key { AuthScheme::of(provider.api()) } else { AuthScheme::None },
            fallbacks: Vec::new(),
        };
        route.origin()?;
        if route.model.is_empty() {
            return Err(RouteError::NoModel(provider));
        }
        if provider.needs_key() && !has_key {
            return Err(RouteError::NoKey { provider });
        }
        Ok(route)
    }

    /// Another route to ask when this one, and those added before, give no answer.
    ///
    /// # Errors
    /// [`RouteError::Fallback`], when it can be none of this route.
    pub fn add_fallback(&mut self, fallback: Self) -> Result<(), RouteError> {
        self.fallbacks.push(fallback);
        self.check_fallbacks().inspect_err(|_| drop(self.fallbacks.pop()))
    }

    pub(crate) fn check_fallbacks(&self) -> Result<(), RouteError> {
        let apis = self.fallbacks.iter().map(|route| route.provider.api());
        let canary = std::iter::once(self).chain(&self.fallbacks).any(|r| r.provider == Provider::Canary);
        let why = if self.fallbacks.is_empty() {
            return Ok(());
        } else if canary {
            "the built-in canary is no model: it has no fall-back and is none"
        } else if self.fallbacks.len() > MAX_FALLBACKS {
            "a route has four fall-backs at most"
        } else if self.fallbacks.iter().any(|route| !route.fallbacks.is_empty()) {
            "a fall-back has no fall-backs of its own"
        } else if apis.into_iter().any(|api| api != self.provider.api()) {
            "it must speak what the first route speaks: requests are passed on, not translated between OpenAI's and \
             Anthropic's API"
        } else {
            return Ok(());
        };
        Err(RouteError::Fallback(why))
    }

    /// The base URL in force. `None` for the canary and for a route that lacks one.
    pub fn effective_base_url(&self) -> Option<&str> {
        self.base_url.as_deref().or(self.provider.default_base_url())
    }

    pub(crate) fn origin(&self) -> Result<Origin, RouteError> {
        let url = self.effective_base_url().ok_or(RouteError::NoEndpoint(self.provider))?;
        let mut origin = Origin::parse(url)?;
        // Clients of this API add `/v1` themselves, so its base URLs are mostly written without.
        if self.provider.api() == Api::Anthropic && !origin.path.ends_with("/v1") {
            origin.path.push_str("/v1");
        }
        Ok(origin)
    }

    /// The header that shows the key, if the route shows one.
    pub(crate) fn key_header(&self, key: Option<&Secret>) -> Result<Option<KeyHeader>, RouteError> {
        let Some((name, before)) = self.auth.header() else { return Ok(None) };
        let key = key.ok_or(RouteError::NoKey { provider: self.provider })?;
        let text = zeroize::Zeroizing::new(format!("{before}{}", key.expose().trim()));
        let mut value = HeaderValue::from_str(&text).map_err(|_| RouteError::BadKey(self.provider))?;
        value.set_sensitive(true);
        Ok(Some((name, value)))
    }
}

impl Origin {
    fn parse(url: &str) -> Result<Self, RouteError> {
        let bad = RouteError::BadUrl;
        if url.contains(['#', '?']) {
            return Err(bad("it may have no query and no fragment"));
        }
        let uri: http::Uri = url.parse().map_err(|_| bad("it is not a URL like http://host:port/v1"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or(bad("it names no host"))?.as_str();
        if authority.contains('@') {
            return Err(bad("it holds a user name or key; give the key in its variable"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let plain_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || (host.parse::<IpAddr>().is_err() && !host.chars().all(plain_name)) {
            return Err(bad("its host is not a name or an address"));
        }
        let default_port = if https { 443 } else { 80 };
        let port = match uri.port() {
            // The parser takes a port that is no number for none at all.
            None if uri.host() != Some(authority) => {
                return Err(bad("its port is not a number from 1 to 65535"));
            }
            None => default_port,
            Some(port) => port.as_u16(),
        };
        if port == 0 {
            return Err(bad("its port is not a number from 1 to 65535"));
        }
        let path = uri.path().trim_end_matches('/');
        if path.split('/').any(|part| part == ".." || part == ".") || path.contains('%') {
            return Err(bad("its path may not hold '..' or '%'"));
        }
        Ok(Self {
            https,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }

    /// `host:port`, for people.
    pub(crate) fn display(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Result<Origin, RouteError> {
        Route::new(Provider::Custom, Some(url), "m", false)?.origin()
    }

    #[test]
    fn takes_urls_apart() {
        let o = origin("https://Example.org:8443/api/v1/").unwrap();
        assert_eq!((o.https, o.host.as_str(), o.port), (true, "Example.org", 8443));
        assert_eq!((o.authority.as_str(), o.path.as_str()), ("Example.org:8443", "/api/v1"));
        let o = origin("http://[::1]").unwrap();
        assert_eq!((o.host.as_str(), o.port, o.display().as_str()), ("::1", 80, "[::1]:80"));
        assert_eq!(o.path, "");
    }

    #[test]
    fn refuses_what_it_cannot_use_without_repeating_it() {
        for url in [
            "",
            "host",
            "host:80/v1",
            "ftp://host/v1",
            "http://",
            "http://user:hunter2@host/v1",
            "http://host/v1?key=hunter2",
            "http://host/v1#x",
            "http://host:0/v1",
            "http://host:/v1",
            "http://host:99999/v1",
            "http://a b/v1",
            "http://host/../v1",
            "http://host/%2e%2e",
        ] {
            let error = origin(url).unwrap_err();
            assert!(matches!(error, RouteError::BadUrl(_)), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn names_what_a_provider_lacks() {
        assert_eq!(
            Route::new(Provider::Custom, None, "m", false),
            Err(RouteError::NoEndpoint(Provider::Custom))
        );
        assert_eq!(
            Route::new(Provider::Ollama, None, " ", false),
            Err(RouteError::NoModel(Provider::Ollama))
        );
        let error = Route::new(Provider::OpenAi, None, "gpt", false).unwrap_err();
        assert_eq!(error.to_string(), "provider openai needs a key: set OPENAI_API_KEY");
    }

    #[test]
    fn json_has_one_spelling_and_no_secret() {
        let route = Route::new(Provider::Custom, Some("http://127.0.0.1:9/v1"), "m", true).unwrap();
        let json = serde_json::to_string(&route).unwrap();
        assert_eq!(
            json,
            "{\"provider\":\"custom\",\"base_url\":\"http://127.0.0.1:9/v1\",\"model\":\"m\",\"auth\":\"bearer\"}"
        );
        assert_eq!(serde_json::from_str::<Route>(&json).unwrap(), route);
        let route = Route::new(Provider::Anthropic, None, "m", true).unwrap();
        let json = serde_json::to_string(&route).unwrap();
        assert!(json.ends_with("\"auth\":\"x-api-key\"}"), "{json}");
        assert_eq!(serde_json::from_str::<Route>(&json).unwrap(), route);
    }

    #[test]
    fn a_fallback_is_refused_where_it_could_not_serve_and_old_records_have_none() {
        let local = || Route::new(Provider::Ollama, None, "m", false).unwrap();
        let claude = Route::new(Provider::Anthropic, None, "c", true).unwrap();
        let mut route = local();
        for refused in [Route::canary(), claude, Route { fallbacks: vec![local()], ..local() }] {
            assert!(matches!(route.add_fallback(refused), Err(RouteError::Fallback(_))));
        }
        assert!(matches!(Route::canary().add_fallback(local()), Err(RouteError::Fallback(_))));
        assert_eq!(route, local());
        for _ in 0..MAX_FALLBACKS {
            route.add_fallback(local()).unwrap();
        }
        assert!(matches!(route.add_fallback(local()), Err(RouteError::Fallback(_))));
        let json = serde_json::to_string(&route).unwrap();
        assert_eq!(serde_json::from_str::<Route>(&json).unwrap(), route);
        let old = r#"{"provider":"ollama","base_url":null,"model":"m","auth":"none"}"#;
        assert_eq!(serde_json::from_str::<Route>(old).unwrap(), local());
    }

    #[test]
    fn the_key_is_a_sensitive_header_or_an_error() {
        let route = Route::new(Provider::Custom, Some("http://h/v1"), "m", true).unwrap();
        let key = Secret::new("sk-1\n".into());
        let (name, value) = route.key_header(Some(&key)).unwrap().unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer sk-1"));
        assert!(value.is_sensitive());
        let bad = route.key_header(Some(&Secret::new("sk\n-1".into())));
        assert_eq!(bad, Err(RouteError::BadKey(Provider::Custom)));
        assert_eq!(route.key_header(None), Err(RouteError::NoKey { provider: Provider::Custom }));

        let route = Route::new(Provider::Anthropic, None, "m", true).unwrap();
        let (name, value) = route.key_header(Some(&key)).unwrap().unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-api-key", "sk-1"));
    }

    #[test]
    fn an_anthropic_base_url_is_the_same_with_and_without_its_version() {
        for url in ["https://h/anthropic", "https://h/anthropic/", "https://h/anthropic/v1"] {
            let route = Route::new(Provider::AnthropicCompatible, Some(url), "m", false).unwrap();
            assert_eq!(route.origin().unwrap().path, "/anthropic/v1");
        }
    }
}
