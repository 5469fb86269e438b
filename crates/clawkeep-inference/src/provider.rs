use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who answers for a model. Written by its name, also in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The built-in responder: no model, no network.
    Canary,
    /// Ollama on this host.
    Ollama,
    /// vLLM on this host.
    Vllm,
    /// An NVIDIA NIM container on this host.
    NimLocal,
    /// llama.cpp's server on this host.
    LlamaCpp,
    /// NVIDIA's hosted endpoints.
    Build,
    /// OpenAI.
    OpenAi,
    /// Google Gemini, by its OpenAI-compatible endpoint.
    Gemini,
    /// OpenRouter.
    OpenRouter,
    /// Any OpenAI-compatible endpoint.
    Custom,
}

/// A word that names no provider of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// A provider of the outside contract that this version cannot serve yet.
    #[error("provider {0} is not in this version yet; use one of: {list}", list = names())]
    NotYet(&'static str),
    /// No provider at all.
    #[error("{0:?} is not a provider; use one of: {list}", list = names())]
    Unknown(String),
}

struct Row {
    provider: Provider,
    name: &'static str,
    base_url: Option<&'static str>,
    key_variables: &'static [&'static str],
    needs_key: bool,
}

const fn row(
    provider: Provider,
    name: &'static str,
    base_url: Option<&'static str>,
    key_variables: &'static [&'static str],
    needs_key: bool,
) -> Row {
    Row { provider, name, base_url, key_variables, needs_key }
}

/// One row for each provider; ports of local ones as their servers have them by default.
static TABLE: &[Row] = &[
    row(Provider::Canary, "canary", None, &[], false),
    row(Provider::Ollama, "ollama", Some("http://127.0.0.1:11434/v1"), &[], false),
    row(Provider::Vllm, "vllm", Some("http://127.0.0.1:8000/v1"), &[], false),
    row(Provider::NimLocal, "nim-local", Some("http://127.0.0.1:8000/v1"), &[], false),
    row(Provider::LlamaCpp, "llamacpp", Some("http://127.0.0.1:8081/v1"), &[], false),
    row(Provider::Build, "build", Some("https://integrate.api.nvidia.com/v1"), &["NVIDIA_API_KEY"], true),
    row(Provider::OpenAi, "openai", Some("https://api.openai.com/v1"), &["OPENAI_API_KEY"], true),
    row(
        Provider::Gemini,
        "gemini",
        Some("https://generativelanguage.googleapis.com/v1beta/openai"),
        &["GEMINI_API_KEY"],
        true,
    ),
    row(
        Provider::OpenRouter,
        "openrouter",
        Some("https://openrouter.ai/api/v1"),
        &["OPENROUTER_API_KEY"],
        true,
    ),
    row(Provider::Custom, "custom", None, &["COMPATIBLE_API_KEY"], false),
];

const NOT_YET: &[&str] = &["anthropic", "anthropicCompatible"];

fn names() -> String {
    TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

impl Provider {
    /// The provider of this name, as users type it.
    ///
    /// # Errors
    /// [`ProviderError`], with the names that would do.
    pub fn parse(name: &str) -> Result<Self, ProviderError> {
        if let Some(row) = TABLE.iter().find(|row| row.name == name) {
            return Ok(row.provider);
        }
        match NOT_YET.iter().find(|known| **known == name) {
            Some(known) => Err(ProviderError::NotYet(known)),
            None => Err(ProviderError::Unknown(name.chars().take(64).collect())),
        }
    }

    /// Its name, as users type it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Where it answers if the operator says nothing. `None`: it has no usual place.
    pub fn default_base_url(self) -> Option<&'static str> {
        self.row().base_url
    }

    /// Environment variables that its key is taken from, the first that is set wins.
    pub fn key_variables(self) -> &'static [&'static str] {
        self.row().key_variables
    }

    /// Whether it answers nothing without a key.
    pub fn needs_key(self) -> bool {
        self.row().needs_key
    }

    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.provider == self).expect("every provider has a row")
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Provider {
    type Err = ProviderError;

    fn from_str(text: &str) -> Result<Self, ProviderError> {
        Self::parse(text)
    }
}

impl Serialize for Provider {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Provider {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_reads_back_and_has_a_usable_base_url() {
        for row in TABLE {
            assert_eq!(Provider::parse(row.name), Ok(row.provider));
            assert!(
                !row.needs_key || !row.key_variables.is_empty(),
                "{} has no way to get its key",
                row.name
            );
            if let Some(url) = row.base_url {
                assert!(url.parse::<http::Uri>().unwrap().host().is_some(), "{url}");
            }
        }
    }

    #[test]
    fn says_what_is_not_in_this_version_and_what_is_no_provider() {
        assert_eq!(Provider::parse("anthropic"), Err(ProviderError::NotYet("anthropic")));
        assert_eq!(
            Provider::parse("anthropicCompatible").unwrap_err().to_string(),
            "provider anthropicCompatible is not in this version yet; use one of: canary, ollama, vllm, nim-local, \
             llamacpp, build, openai, gemini, openrouter, custom"
        );
        assert_eq!(Provider::parse("Ollama"), Err(ProviderError::Unknown("Ollama".into())));
    }
}
