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
    /// Anthropic.
    Anthropic,
    /// Google Gemini, by its OpenAI-compatible endpoint.
    Gemini,
    /// OpenRouter.
    OpenRouter,
    /// Any OpenAI-compatible endpoint.
    Custom,
    /// Any endpoint of the Anthropic Messages API.
    AnthropicCompatible,
}

/// What a provider is asked by. Requests are passed on as they are, so this is also what the agent has to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's chat completions, as most servers know them.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
}

/// A word that names no provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a provider; use one of: {list}", list = names())]
pub struct ProviderError(String);

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
    row(Provider::Anthropic, "anthropic", Some("https://api.anthropic.com"), &["ANTHROPIC_API_KEY"], true),
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
    row(
        Provider::AnthropicCompatible,
        "anthropicCompatible",
        None,
        &["COMPATIBLE_ANTHROPIC_API_KEY", "COMPATIBLE_API_KEY"],
        false,
    ),
];

fn names() -> String {
    TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

impl Provider {
    /// The provider of this name, as users type it.
    ///
    /// # Errors
    /// [`ProviderError`], with the names that would do.
    pub fn parse(name: &str) -> Result<Self, ProviderError> {
        let row = TABLE.iter().find(|row| row.name == name);
        row.map(|row| row.provider).ok_or_else(|| ProviderError(name.chars().take(64).collect()))
    }

    /// What it is asked by.
    pub fn api(self) -> Api {
        match self {
            Self::Anthropic | Self::AnthropicCompatible => Api::Anthropic,
            _ => Api::OpenAi,
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
    fn a_word_that_is_no_provider_is_answered_with_those_that_are() {
        assert_eq!(
            Provider::parse("Ollama").unwrap_err().to_string(),
            "\"Ollama\" is not a provider; use one of: canary, ollama, vllm, nim-local, llamacpp, build, openai, \
             anthropic, gemini, openrouter, custom, anthropicCompatible"
        );
    }
}
