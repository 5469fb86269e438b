//! YAML as policies need it: scalars, lists, maps, each with its line. Anchors, aliases, tags, second documents,
//! duplicate keys and deep nesting are refused: none has a use in a policy, each has a use against its reader.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::error::PolicyError;

/// A policy file is this long at most, as OpenShell documents.
pub(crate) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A policy is nine levels deep; nothing deeper is one.
const MAX_DEPTH: usize = 16;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    /// A text, and whether it stood without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) node: Node,
}

/// The one document of a text.
pub(crate) fn parse(text: &str) -> Result<Node, PolicyError> {
    if text.len() > MAX_BYTES {
        return Err(wrong(1, "a policy is 4 MiB long at most", "policy-too-long"));
    }
    let mut reader = Reader { events: Parser::new_from_str(text), line: 1 };
    let mut root = None;
    loop {
        match reader.next()? {
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::StreamEnd => break,
            _ if root.is_some() => {
                return Err(wrong(reader.line, "there is a second document", "policy-yaml"));
            }
            event => root = Some(reader.node(event, 0)?),
        }
    }
    root.ok_or_else(|| wrong(1, "the file is empty", "policy-yaml"))
}

fn wrong(line: usize, message: impl Into<String>, code: &'static str) -> PolicyError {
    PolicyError {
        code,
        line,
        field: String::new(),
        message: message.into(),
        next: format!("put line {line} right and try again"),
    }
}

struct Reader<'input> {
    events: Parser<'input, saphyr_parser::StrInput<'input>>,
    line: usize,
}

impl<'input> Reader<'input> {
    fn next(&mut self) -> Result<Event<'input>, PolicyError> {
        let next: Option<Result<(Event<'input>, Span), ScanError>> = self.events.next_event();
        match next {
            Some(Ok((event, span))) => {
                self.line = span.start.line().max(1);
                Ok(event)
            }
            Some(Err(error)) => {
                let line = error.marker().line().max(1);
                Err(wrong(line, format!("this is no YAML: {}", error.info()), "policy-yaml"))
            }
            None => Ok(Event::StreamEnd),
        }
    }

    fn node(&mut self, event: Event<'input>, depth: usize) -> Result<Node, PolicyError> {
        let line = self.line;
        if depth > MAX_DEPTH {
            return Err(wrong(line, "this is nested too deeply for a policy", "policy-yaml"));
        }
        let (anchor, tagged) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            Event::Alias(_) => (1, false),
            _ => (0, false),
        };
        if anchor != 0 {
            return Err(wrong(
                line,
                "policies have no anchors and aliases: write it out",
                "policy-yaml-alias",
            ));
        }
        if tagged {
            return Err(wrong(line, "policies have no tags", "policy-yaml-tag"));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => {
                Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => Value::List(self.list(depth)?),
            Event::MappingStart(..) => Value::Map(self.map(depth)?),
            _ => return Err(wrong(line, "this is no YAML", "policy-yaml")),
        };
        Ok(Node { line, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, PolicyError> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(list),
                event => list.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, PolicyError> {
        let mut map: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        loop {
            let event = self.next()?;
            if event == Event::MappingEnd {
                return Ok(map);
            }
            let line = self.line;
            let Node { value: Value::Scalar { text: key, .. }, .. } = self.node(event, depth + 1)? else {
                return Err(wrong(line, "a key is a plain word", "policy-yaml"));
            };
            if key == "<<" {
                return Err(wrong(line, "policies have no merge keys: write it out", "policy-yaml-alias"));
            }
            if !seen.insert(key.clone()) {
                let key = crate::printable(&key);
                return Err(wrong(line, format!("`{key}` is said twice"), "policy-yaml-duplicate"));
            }
            let event = self.next()?;
            let node = self.node(event, depth + 1)?;
            map.push(Entry { key, line, node });
        }
    }
}
