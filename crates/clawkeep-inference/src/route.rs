use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{CANARY_MODEL, Provider, Secret};

/// How a route shows its key to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthScheme {
    /// It has none.
    None,
    /// `Authorization: Bearer` (RFC 6750).
    Bearer,
}

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
            auth: if has_key { AuthScheme::Bearer } else { AuthScheme::None },
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

    /// The base URL in force. `None` for the canary and for a route that lacks one.
    pub fn effective_base_url(&self) -> Option<&str> {
        self.base_url.as_deref().or(self.provider.default_base_url())
    }

    pub(crate) fn origin(&self) -> Result<Origin, RouteError> {
        let url = self.effective_base_url().ok_or(RouteError::NoEndpoint(self.provider))?;
        Origin::parse(url)
    }

    /// The `Authorization` value, if the route shows a key.
    pub(crate) fn authorization(
        &self,
        key: Option<&Secret>,
    ) -> Result<Option<http::HeaderValue>, RouteError> {
        let text = match self.auth {
            AuthScheme::None => return Ok(None),
            AuthScheme::Bearer => {
                let key = key.ok_or(RouteError::NoKey { provider: self.provider })?;
                zeroize::Zeroizing::new(format!("Bearer {}", key.expose().trim()))
            }
        };
        let mut value = http::HeaderValue::from_str(&text).map_err(|_| RouteError::BadKey(self.provider))?;
        value.set_sensitive(true);
        Ok(Some(value))
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
    }

    #[test]
    fn the_key_is_a_sensitive_header_or_an_error() {
        let route = Route::new(Provider::Custom, Some("http://h/v1"), "m", true).unwrap();
        let value = route.authorization(Some(&Secret::new("sk-1\n".into()))).unwrap().unwrap();
        assert_eq!((value.to_str().unwrap(), value.is_sensitive()), ("Bearer sk-1", true));
        let bad = route.authorization(Some(&Secret::new("sk\n-1".into())));
        assert_eq!(bad, Err(RouteError::BadKey(Provider::Custom)));
        assert_eq!(route.authorization(None), Err(RouteError::NoKey { provider: Provider::Custom }));
    }
}
