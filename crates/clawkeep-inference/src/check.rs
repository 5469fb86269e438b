use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::Api;
use crate::body::{BoxBody, empty, full, read_whole};
use crate::canary;
use crate::forward::Upstream;
use crate::problem::{RouteProblem, printable};
use crate::service::{Backend, Service};

/// The largest answer that a check reads, in bytes. Some providers list hundreds of models at length.
const MAX_ANSWER: u64 = 8 << 20;

/// A route that answered one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteReport {
    /// The provider's name.
    pub provider: &'static str,
    /// The model that answered.
    pub model: String,
    /// How many models the provider lists; `None` where it lists none at all.
    pub listed: Option<usize>,
    /// From sending the turn to its whole answer.
    pub turn: Duration,
}

impl Service {
    /// One verified first request to the route itself, not to its fall-backs, from outside the sandbox: the list of models, then a turn of one token.
    /// The turn is the proof; the list only explains its failure. Bounded by [`crate::Timeouts`].
    ///
    /// # Errors
    /// [`RouteProblem`], which says what failed and the next step.
    pub async fn check(&self) -> Result<RouteReport, RouteProblem> {
        let model = self.route().model.clone();
        let (listed, start) = match &self.backend {
            Backend::Canary => {
                let start = Instant::now();
                let turn = canary::chat(full(turn_body(&model, "max_tokens", 1))).await;
                if turn.status() != StatusCode::OK {
                    return Err(RouteProblem::Protocol {
                        address: "the built-in canary".to_owned(),
                        cause: turn.status().to_string(),
                    });
                }
                (Some(vec![model.clone()]), start)
            }
            Backend::Http(chain) => {
                let probe = Probe { service: self, upstream: chain.first(), model: &model };
                let listed = probe.list(self.timeouts.list).await?;
                let start = Instant::now();
                probe.turn(listed.as_deref(), self.timeouts.turn).await?;
                (listed, start)
            }
            Backend::Keyless(cause) => return Err(RouteProblem::KeyUnreadable { cause: cause.clone() }),
        };
        Ok(RouteReport {
            provider: self.route().provider.name(),
            model,
            listed: listed.map(|models| models.len()),
            turn: start.elapsed(),
        })
    }
}

impl Service {
    /// The models that the provider lists, asked from outside of every sandbox; none where it lists none at all.
    ///
    /// # Errors
    /// [`RouteProblem`], which says what failed and the next step.
    pub async fn models(&self) -> Result<Vec<String>, RouteProblem> {
        match &self.backend {
            Backend::Canary => Ok(vec![self.route().model.clone()]),
            Backend::Http(chain) => {
                let probe = Probe { service: self, upstream: chain.first(), model: "" };
                Ok(probe.list(self.timeouts.list).await?.unwrap_or_default())
            }
            Backend::Keyless(cause) => Err(RouteProblem::KeyUnreadable { cause: cause.clone() }),
        }
    }
}

struct Probe<'a> {
    service: &'a Service,
    upstream: &'a Upstream,
    model: &'a str,
}

impl Probe<'_> {
    /// The models that the provider lists, if it lists any.
    async fn list(&self, limit: Duration) -> Result<Option<Vec<String>>, RouteProblem> {
        let path = match self.upstream.api() {
            Api::OpenAi => "/models",
            // It pages, and has less than a page of this size.
            Api::Anthropic => "/models?limit=1000",
        };
        let (status, bytes) = self.ask(Method::GET, path, empty(), limit).await?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.problem_of(status, &bytes));
        }
        let list = serde_json::from_slice::<Value>(&bytes).ok().filter(|_| status.is_success());
        let Some(list) = list.as_ref().and_then(|value| value["data"].as_array()) else {
            // Not every provider has a list; the turn will tell.
            return Ok(None);
        };
        let names = list.iter().filter_map(|model| model["id"].as_str());
        Ok(Some(names.map(|id| printable(&self.clean(id), 128)).collect()))
    }

    async fn turn(&self, listed: Option<&[String]>, limit: Duration) -> Result<(), RouteProblem> {
        let (path, proof, what) = match self.upstream.api() {
            Api::OpenAi => {
                ("/chat/completions", "choices", "its answer to a chat completion has no 'choices'")
            }
            Api::Anthropic => ("/messages", "content", "its answer to a message has no 'content'"),
        };
        let body = full(turn_body(self.model, "max_tokens", 1));
        let (mut status, mut bytes) = self.ask(Method::POST, path, body, limit).await?;
        if status == StatusCode::BAD_REQUEST
            && String::from_utf8_lossy(&bytes).contains("max_completion_tokens")
        {
            // Newer reasoning models know the limit by another name only, and refuse very small ones.
            let body = full(turn_body(self.model, "max_completion_tokens", 64));
            (status, bytes) = self.ask(Method::POST, path, body, limit).await?;
        }
        if status.is_success() {
            let answer = serde_json::from_slice::<Value>(&bytes).unwrap_or(Value::Null);
            return match (answer[proof].as_array(), self.upstream.api()) {
                (Some(choices), Api::OpenAi) if !choices.is_empty() => Ok(()),
                // With room for one token it may hold none.
                (Some(_), Api::Anthropic) => Ok(()),
                _ => Err(RouteProblem::Protocol { address: self.upstream.address(), cause: what.to_owned() }),
            };
        }
        let names_model_problem = matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
        match listed {
            Some(models) if names_model_problem && !models.is_empty() && !self.is_among(models) => {
                Err(RouteProblem::ModelAbsent {
                    address: self.upstream.address(),
                    model: self.model.to_owned(),
                    available: models.iter().take(8).cloned().collect(),
                })
            }
            _ => Err(self.problem_of(status, &bytes)),
        }
    }

    /// Providers write the same model in several ways: Ollama adds `:latest`, Gemini puts `models/` before it.
    fn is_among(&self, models: &[String]) -> bool {
        models.iter().any(|id| {
            let id = id.strip_prefix("models/").unwrap_or(id);
            id == self.model || id.strip_suffix(":latest") == Some(self.model)
        })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: BoxBody,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), RouteProblem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("clawkeep"));
        if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let address = self.upstream.address();
        let whole = async {
            let response = self.upstream.send(method, path, headers, body, None, limit).await?;
            let status = response.status();
            let body = read_whole(response.into_body().boxed_unsync(), MAX_ANSWER).await;
            let body = body.map_err(|_| RouteProblem::Protocol {
                address: address.clone(),
                cause: "its answer broke off or is too long".to_owned(),
            })?;
            Ok((status, body))
        };
        // Connecting has its own, shorter limit and its own problem; this one bounds the answer as a whole.
        timeout(limit + Duration::from_millis(200), whole).await.map_err(|_| RouteProblem::Timeout {
            address: address.clone(),
            what: "answer",
            after: limit,
        })?
    }

    /// What the provider says, without the key.
    fn clean(&self, text: &str) -> String {
        self.service.secret.as_ref().map_or_else(|| text.to_owned(), |secret| secret.redact(text))
    }

    fn problem_of(&self, status: StatusCode, body: &[u8]) -> RouteProblem {
        let address = self.upstream.address();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let key_sent = self.upstream.sends_key();
            return RouteProblem::Unauthorized { address, status: status.as_u16(), key_sent };
        }
        let said: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = said["error"]["message"].as_str().or(said["error"].as_str()).or(said["message"].as_str());
        let text = text.map_or_else(String::new, |text| self.clean(text));
        RouteProblem::UpstreamStatus { address, status: status.as_u16(), message: printable(&text, 200) }
    }
}

fn turn_body(model: &str, limit_name: &str, limit: u32) -> Bytes {
    let mut request = json!({
        "model": model,
        "messages": [{"role": "user", "content": "ping"}],
        "stream": false,
    });
    request[limit_name] = json!(limit);
    Bytes::from(request.to_string())
}
