use serde::Deserialize;
use serde::de::IgnoredAny;

/// The longest event, and the longest JSON answer, that is looked into, in bytes. What is longer passes unseen.
const MAX_LOOKED_AT: usize = 256 << 10;

/// Tokens, as the provider counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the request, with those that came from a cache.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

/// Looks at an answer as it passes by: how many tokens it cost, how many events it had, and whether it told of an
/// error. What a provider sends is bounded here and never kept.
#[derive(Debug)]
pub(crate) struct Reader {
    kind: Kind,
    /// The line, or the document, so far.
    held: Vec<u8>,
    too_long: bool,
    usage: Usage,
    events: u64,
    error: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Server-sent events (WHATWG HTML, 9.2).
    Events,
    Json,
    Other,
}

#[derive(Deserialize)]
struct Looked {
    #[serde(default)]
    usage: Option<Counted>,
    /// The first event of Anthropic's stream.
    #[serde(default)]
    message: Option<Inner>,
    /// The last event of OpenAI's responses.
    #[serde(default)]
    response: Option<Inner>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(default)]
    usage: Option<Counted>,
}

/// Both APIs' names.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Counted {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

impl Reader {
    /// For an answer of this content type.
    pub(crate) fn new(content_type: &[u8]) -> Self {
        let is =
            |wanted: &[u8]| content_type.get(..wanted.len()).is_some_and(|t| t.eq_ignore_ascii_case(wanted));
        let kind = match () {
            () if is(b"text/event-stream") => Kind::Events,
            () if is(b"application/json") => Kind::Json,
            () => Kind::Other,
        };
        let usage = Usage::default();
        Self { kind, held: Vec::new(), too_long: false, usage, events: 0, error: false }
    }

    /// Whether it is a stream of events.
    pub(crate) fn is_stream(&self) -> bool {
        self.kind == Kind::Events
    }

    /// The next bytes.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        match self.kind {
            Kind::Other => {}
            Kind::Json => self.hold(bytes),
            Kind::Events => {
                while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                    self.hold(&bytes[..end]);
                    self.line();
                    bytes = &bytes[end + 1..];
                }
                self.hold(bytes);
            }
        }
    }

    /// The end was reached.
    pub(crate) fn end(&mut self) {
        match self.kind {
            Kind::Json if !self.too_long => {
                let held = std::mem::take(&mut self.held);
                self.look(&held);
            }
            Kind::Events => self.line(),
            _ => {}
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Events with data so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// It told of an error in its middle.
    pub(crate) fn told_of_error(&self) -> bool {
        self.error
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.too_long |= self.held.len() + bytes.len() > MAX_LOOKED_AT;
        if self.too_long {
            self.held.clear();
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    fn line(&mut self) {
        let held = std::mem::take(&mut self.held);
        let too_long = std::mem::take(&mut self.too_long);
        if too_long {
            self.events += 1;
        } else if let Some(data) = held.strip_prefix(b"data:") {
            self.events += 1;
            let mentions = |word: &[u8]| data.windows(word.len()).any(|part| part == word);
            if mentions(b"\"usage\"") || mentions(b"\"error\"") {
                self.look(data);
            }
        }
        // One allocation serves all lines.
        self.held = held;
        self.held.clear();
    }

    fn look(&mut self, json: &[u8]) {
        let Ok(looked) = serde_json::from_slice::<Looked>(json) else { return };
        self.error |= looked.error.is_some();
        let inner = |inner: Option<Inner>| inner.and_then(|inner| inner.usage);
        for counted in [looked.usage, inner(looked.message), inner(looked.response)].into_iter().flatten() {
            // Counts in a stream are of all of it so far.
            self.usage.input = self.usage.input.max(counted.input());
            self.usage.output = self.usage.output.max(counted.output());
        }
    }
}

impl Counted {
    fn input(&self) -> u64 {
        let anthropic = [self.input_tokens, self.cache_creation_input_tokens, self.cache_read_input_tokens];
        let sum = anthropic.into_iter().flatten().fold(0, u64::saturating_add);
        self.prompt_tokens.unwrap_or(sum)
    }

    fn output(&self) -> u64 {
        self.completion_tokens.or(self.output_tokens).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(content_type: &str, pieces: &[&[u8]]) -> Reader {
        let mut reader = Reader::new(content_type.as_bytes());
        pieces.iter().for_each(|piece| reader.read(piece));
        reader.end();
        reader
    }

    const CHAT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7}}\r\n\ndata: [DONE]\n\n";

    const MESSAGE: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":\
        {\"input_tokens\":5,\"cache_read_input_tokens\":20,\"output_tokens\":1}}}\n\nevent: message_delta\n\
        data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n";

    #[test]
    fn finds_the_tokens_of_every_shape() {
        let usage = |input, output| Usage { input, output };
        let chat = read("text/event-stream; charset=utf-8", &[CHAT.as_bytes()]);
        assert_eq!((chat.usage(), chat.events(), chat.told_of_error()), (usage(11, 7), 3, false));
        let message = read("text/event-stream", &[MESSAGE.as_bytes()]);
        assert_eq!((message.usage(), message.events()), (usage(25, 15), 2));
        let response = "data: {\"type\":\"response.completed\",\"response\":{\"error\":null,\"usage\":\
            {\"input_tokens\":3,\"output_tokens\":4}}}";
        assert_eq!(read("text/event-stream", &[response.as_bytes()]).usage(), usage(3, 4));
        let whole = br#"{"choices":[],"usage":{"prompt_tokens":2,"total_tokens":2}}"#;
        assert_eq!(read("application/json", &[whole]).usage(), usage(2, 0));
        assert_eq!(read("text/html", &[whole]).usage(), usage(0, 0));
    }

    #[test]
    fn an_error_in_the_middle_is_seen() {
        for event in [
            "data: {\"error\":{\"message\":\"overloaded\"}}\n\n",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
        ] {
            assert!(read("text/event-stream", &[event.as_bytes()]).told_of_error(), "{event}");
        }
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\"\"}}]}\n\n";
        assert!(!read("text/event-stream", &[text.as_bytes()]).told_of_error());
    }

    #[test]
    fn what_is_too_long_or_nonsense_passes_unseen_and_what_follows_is_seen() {
        let long = vec![b'x'; MAX_LOOKED_AT];
        let mut reader = Reader::new(b"text/event-stream");
        reader.read(b"data: ");
        for _ in 0..4 {
            reader.read(&long);
            assert!(reader.held.capacity() <= 2 * MAX_LOOKED_AT);
        }
        reader.read(b"\ndata: {\"usage\":{\"prompt_tokens\":-1}}\ndata: {\"usage\":\n");
        reader.read(CHAT.as_bytes());
        assert_eq!(reader.usage(), Usage { input: 11, output: 7 });
        let huge =
            format!("{{\"usage\":{{\"input_tokens\":{0},\"cache_read_input_tokens\":{0}}}}}", u64::MAX);
        assert_eq!(read("application/json", &[huge.as_bytes()]).usage().input, u64::MAX);
    }

    proptest! {
        #[test]
        fn how_it_is_cut_into_pieces_does_not_matter(cuts in prop::collection::vec(0..CHAT.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, CHAT.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &CHAT.as_bytes()[cut[0]..cut[1]]).collect();
            let reader = read("text/event-stream", &pieces);
            prop_assert_eq!((reader.usage(), reader.events()), (Usage { input: 11, output: 7 }, 3));
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), events: bool) {
            let content_type = if events { "text/event-stream" } else { "application/json" };
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            prop_assert!(read(content_type, &[&bytes]).events() <= lines + 1);
        }
    }
}
