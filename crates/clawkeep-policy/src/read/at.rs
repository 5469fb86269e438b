//! A place in the file: a node, and the words that lead to it.

use crate::error::PolicyError;
use crate::yaml::{Entry, Node, Value};

#[derive(Clone)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    /// `network_policies.npm.endpoints[0]`.
    pub(super) field: String,
    pub(super) line: usize,
}

/// What a place's keys may be.
pub(super) struct Known {
    pub(super) fields: &'static [&'static str],
    /// OpenShell has these, Clawkeep does not.
    pub(super) unsupported: &'static [&'static str],
}

impl<'a> At<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node, field: String::new(), line: node.line }
    }

    pub(super) fn error(&self, code: &'static str, message: String, next: impl Into<String>) -> PolicyError {
        PolicyError { code, line: self.line, field: self.field.clone(), message, next: next.into() }
    }

    fn wrong_type(&self, expected: &str) -> PolicyError {
        let found = match &self.node.value {
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, plain: true } => format!("`{}`", crate::printable(text)),
            Value::Scalar { text, .. } => format!("`\"{}\"`", crate::printable(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        };
        let next = format!("write {expected} there, or take the field out");
        self.error("policy-field-type", format!("{expected} is expected, and {found} is there"), next)
    }

    /// `key:` with nothing behind it, `null`, `~`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    fn below(&self, entry: &'a Entry) -> Self {
        let key = crate::printable(&entry.key);
        let field = if self.field.is_empty() { key } else { format!("{}.{key}", self.field) };
        At { node: &entry.node, field, line: entry.line }
    }

    /// Every entry of a map whose keys are free.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, At<'a>)>, PolicyError> {
        let Value::Map(map) = &self.node.value else { return Err(self.wrong_type("a map")) };
        Ok(map.iter().map(|entry| (entry.key.as_str(), self.below(entry))).collect())
    }

    /// A map whose keys are known: no other is accepted.
    pub(super) fn fields(&self, known: &Known) -> Result<Fields<'a>, PolicyError> {
        let entries = self.entries()?;
        for (key, at) in &entries {
            if known.unsupported.contains(key) {
                let message = "OpenShell has this, Clawkeep does not: it cannot be enforced".to_owned();
                return Err(at.error("policy-field-unsupported", message, "take the field out"));
            }
            if !known.fields.contains(key) {
                let next = format!("write one of: {}", known.fields.join(", "));
                return Err(at.error("policy-field-unknown", "no such field is known here".to_owned(), next));
            }
        }
        Ok(Fields { at: self.clone(), entries })
    }

    pub(super) fn list(&self) -> Result<Vec<At<'a>>, PolicyError> {
        let Value::List(list) = &self.node.value else { return Err(self.wrong_type("a list")) };
        let item = |(index, node): (usize, &'a Node)| At {
            node,
            field: format!("{}[{index}]", self.field),
            line: node.line,
        };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// A list that says something.
    pub(super) fn filled_list(&self) -> Result<Vec<At<'a>>, PolicyError> {
        let list = self.list()?;
        if list.is_empty() {
            let message = "an empty list means nothing here".to_owned();
            return Err(self.error("policy-list-empty", message, "fill the list, or take the field out"));
        }
        Ok(list)
    }

    pub(super) fn text(&self) -> Result<&'a str, PolicyError> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.is_null() => {
                if text.chars().any(char::is_control) || text.len() > 4096 {
                    return Err(self.wrong_type("one line of text"));
                }
                Ok(text)
            }
            _ => Err(self.wrong_type("a text")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, PolicyError> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if text == "true" => Ok(true),
            Value::Scalar { text, plain: true } if text == "false" => Ok(false),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A whole number from 1 to 65535 in its plain spelling.
    pub(super) fn port(&self) -> Result<u16, PolicyError> {
        match &self.node.value {
            Value::Scalar { text, plain: true } => {
                crate::target::parse_port(text).map_err(|_| self.wrong_type("a port from 1 to 65535"))
            }
            _ => Err(self.wrong_type("a port from 1 to 65535")),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, PolicyError> {
        let text = self.text()?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => {
                let words = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                let message = format!("`{}` is none of: {words}", crate::printable(text));
                Err(self.error("policy-value-unknown", message, format!("write one of: {words}")))
            }
        }
    }
}

/// The entries of a map whose keys were checked.
pub(super) struct Fields<'a> {
    pub(super) at: At<'a>,
    entries: Vec<(&'a str, At<'a>)>,
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, key: &str) -> Option<At<'a>> {
        self.entries.iter().find(|(own, _)| *own == key).map(|(_, at)| at.clone())
    }

    pub(super) fn need(&self, key: &str) -> Result<At<'a>, PolicyError> {
        self.get(key).ok_or_else(|| {
            let next = format!("add `{key}:`");
            self.at.error("policy-field-missing", format!("`{key}` is missing"), next)
        })
    }
}
