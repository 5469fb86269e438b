use std::time::Duration;

use serde_json::Value;

/// How a fake provider answers one turn.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(super) content: Content,
    pub(super) usage: Option<(u64, u64)>,
    pub(super) manner: Manner,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Text(String),
    Tool { name: String, arguments: Value },
    Error(Refusal),
    Exact { status: u16, body: Vec<u8> },
    Silence,
}

/// An error, in either API's shape.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub status: u16,
    /// The API's word for it.
    pub kind: String,
    pub message: String,
    pub retry_after: Option<String>,
}

impl Refusal {
    pub(super) fn new(status: u16, kind: &str, message: impl Into<String>) -> Self {
        Self { status, kind: kind.to_owned(), message: message.into(), retry_after: None }
    }
}

/// How it is sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Manner {
    pub pace: Duration,
    pub hold: Option<usize>,
    pub ending: Ending,
    pub content_type: Option<String>,
}

/// How an answer ends. In an answer that is no stream an event is a half of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// As the API says.
    #[default]
    Whole,
    /// After so many events the API's error event comes instead of the next one, and the stream ends.
    Error(usize),
    /// After so many events the connection breaks.
    Cut(usize),
    /// After so many events nothing comes any more, until whoever asked goes away.
    Stall(usize),
}

impl Answer {
    /// This text. In a stream each word is an event.
    pub fn text(text: impl Into<String>) -> Self {
        Self::of(Content::Text(text.into()))
    }

    /// It asks for a call of this tool. In a stream the arguments come in pieces that are no JSON each.
    pub fn tool(name: &str, arguments: Value) -> Self {
        Self::of(Content::Tool { name: name.to_owned(), arguments })
    }

    /// An error: its status, and the API's word for it.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        Self::of(Content::Error(Refusal::new(status, kind, message)))
    }

    /// 429, with this `Retry-After`.
    pub fn rate_limited(retry_after: Option<&str>) -> Self {
        let refusal = Refusal::new(429, "rate_limit_error", "too many requests");
        Self::of(Content::Error(Refusal { retry_after: retry_after.map(str::to_owned), ..refusal }))
    }

    /// Anthropic's 529.
    pub fn overloaded() -> Self {
        Self::error(529, "overloaded_error", "Overloaded")
    }

    /// This body, whatever was asked; as JSON, unless [`Answer::typed`] says otherwise.
    pub fn exact(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::of(Content::Exact { status, body: body.into() })
    }

    /// Nothing at all, until whoever asked goes away.
    pub fn silence() -> Self {
        Self::of(Content::Silence)
    }

    /// With these tokens in and out; without, four bytes are one.
    #[must_use]
    pub fn costing(mut self, input: u64, output: u64) -> Self {
        self.usage = Some((input, output));
        self
    }

    /// So slowly: this long before each event but the first.
    #[must_use]
    pub fn paced(mut self, pace: Duration) -> Self {
        self.manner.pace = pace;
        self
    }

    /// After so many events it waits for [`super::FakeProvider::release`].
    #[must_use]
    pub fn held_after(mut self, events: usize) -> Self {
        self.manner.hold = Some(events);
        self
    }

    /// With another end.
    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Self {
        self.manner.ending = ending;
        self
    }

    /// With this content type, true or not.
    #[must_use]
    pub fn typed(mut self, content_type: &str) -> Self {
        self.manner.content_type = Some(content_type.to_owned());
        self
    }

    fn of(content: Content) -> Self {
        Self { content, usage: None, manner: Manner::default() }
    }
}
