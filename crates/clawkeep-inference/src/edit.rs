//! Changes to a request's JSON that leave every other byte as the agent wrote it: numbers beyond 2^53, the order
//! of keys and white space among them. What is no JSON object stays whole.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::service::Call;

/// A parameter that a model needs and that agents do not send.
struct Patch {
    /// Part of the model's name, in lower case.
    models: &'static str,
    call: Call,
    /// The key of an object in the request.
    object: &'static str,
    /// The key in that object. One that the agent has set itself stays.
    key: &'static str,
    /// Its value, as JSON.
    value: &'static str,
}

static PATCHES: &[Patch] = &[
    // Its chat template can render an empty turn of the assistant, which stalls a conversation.
    Patch {
        models: "nemotron",
        call: Call::Chat,
        object: "chat_template_kwargs",
        key: "force_nonempty_content",
        value: "true",
    },
];

/// The model that a request names, if it names one.
pub(crate) fn model_of(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    // Of a key that is there twice most readers take the last.
    let model = members(text)?.into_iter().rfind(|member| member.key == "model")?;
    serde_json::from_str(&text[model.value]).ok()
}

/// The request as the provider is to get it: with the model `put` in the place of the one that it names, if given,
/// and with the parameters that its model needs. `named` is what [`model_of`] found.
pub(crate) fn edit(body: &Bytes, call: Call, named: Option<&str>, put: Option<&str>) -> Bytes {
    let Ok(text) = std::str::from_utf8(body) else { return body.clone() };
    let mut edited = Cow::Borrowed(text);
    if let Some(model) = put
        && let Some(with_model) = set_model(&edited, model)
    {
        edited = Cow::Owned(with_model);
    }
    let model = named.and(put).or(named).unwrap_or_default();
    for patch in PATCHES.iter().filter(|patch| patch.call == call && patch.fits(model)) {
        if let Some(patched) = patch.apply(&edited) {
            edited = Cow::Owned(patched);
        }
    }
    match edited {
        Cow::Borrowed(_) => body.clone(),
        Cow::Owned(edited) => Bytes::from(edited),
    }
}

fn set_model(text: &str, model: &str) -> Option<String> {
    let model = serde_json::Value::from(model).to_string();
    let spans = members(text)?.into_iter().filter(|member| member.key == "model");
    // Every one of them, so that it does not matter which one a provider reads.
    let edits: Vec<_> = spans.map(|member| (member.value, model.clone())).collect();
    (!edits.is_empty()).then(|| splice(text, edits))
}

impl Patch {
    fn fits(&self, model: &str) -> bool {
        model.to_ascii_lowercase().contains(self.models)
    }

    fn apply(&self, text: &str) -> Option<String> {
        let Self { object, key, value, .. } = self;
        let top = members(text)?;
        let mut edits = Vec::new();
        for member in top.iter().filter(|member| member.key == *object) {
            let given = &text[member.value.clone()];
            if given == "null" {
                edits.push((member.value.clone(), format!("{{\"{key}\":{value}}}")));
            } else if let Some(inner) = members(given)
                && inner.iter().all(|member| member.key != *key)
            {
                edits.push(first_member(given, member.value.start, &inner, &format!("\"{key}\":{value}")));
            }
        }
        if top.iter().all(|member| member.key != *object) {
            edits.push(first_member(text, 0, &top, &format!("\"{object}\":{{\"{key}\":{value}}}")));
        }
        (!edits.is_empty()).then(|| splice(text, edits))
    }
}

/// The edit that puts `member` before the others of the object `text`, which begins at `at`.
fn first_member(text: &str, at: usize, others: &[Member<'_>], member: &str) -> (Range<usize>, String) {
    let start = at + text.find('{').map_or(0, |brace| brace + 1);
    (start..start, if others.is_empty() { member.to_owned() } else { format!("{member},") })
}

fn splice(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    let mut edited = text.to_owned();
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    for (span, new) in edits {
        edited.replace_range(span, &new);
    }
    edited
}

/// A member of a JSON object, and where its value stands.
struct Member<'a> {
    key: Cow<'a, str>,
    value: Range<usize>,
}

/// The members of the object that `text` is, in order, with those that are there twice.
fn members(text: &str) -> Option<Vec<Member<'_>>> {
    struct Object<'a>(&'a str);

    impl<'a> Visitor<'a> for Object<'a> {
        type Value = Vec<Member<'a>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while let Some((key, value)) = map.next_entry::<Key<'a>, &'a RawValue>()? {
                // A raw value is a part of the text that is read.
                let start = value.get().as_ptr() as usize - self.0.as_ptr() as usize;
                found.push(Member { key: key.0, value: start..start + value.get().len() });
            }
            Ok(found)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = deserializer.deserialize_map(Object(text)).ok()?;
    deserializer.end().ok().map(|()| found)
}

#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn edited(body: &str, call: Call, model: Option<&str>) -> String {
        let named = model_of(body.as_bytes());
        let edited = edit(&Bytes::from(body.to_owned()), call, named.as_deref(), model);
        String::from_utf8(edited.to_vec()).unwrap()
    }

    #[test]
    fn only_the_models_of_the_table_are_given_their_parameter_and_only_in_a_chat() {
        let chat = |body: &str| edited(body, Call::Chat, None);
        for (body, want) in [
            (
                r#"{ "model":"nvidia/Nemotron-3","seed":9007199254740993 }"#,
                r#"{"chat_template_kwargs":{"force_nonempty_content":true}, "model":"nvidia/Nemotron-3","seed":9007199254740993 }"#,
            ),
            (
                r#"{"model":"nemotron","chat_template_kwargs":null}"#,
                r#"{"model":"nemotron","chat_template_kwargs":{"force_nonempty_content":true}}"#,
            ),
            (
                r#"{"model":"nemotron","chat_template_kwargs": { }}"#,
                r#"{"model":"nemotron","chat_template_kwargs": {"force_nonempty_content":true }}"#,
            ),
            (
                r#"{"chat_template_kwargs":{"x":1},"model":"nemotron"}"#,
                r#"{"chat_template_kwargs":{"force_nonempty_content":true,"x":1},"model":"nemotron"}"#,
            ),
        ] {
            assert_eq!(chat(body), want);
            assert_eq!(chat(&chat(body)), chat(body), "twice is once");
            assert_eq!(edited(body, Call::Responses, None), body);
        }
        for untouched in [
            r#"{"model":"hermes3:8b","messages":[{"content":"nemotron"}]}"#,
            r#"{"model":"nemotron","chat_template_kwargs":{"force_nonempty_content":false}}"#,
            r#"{"model":"nemotron","chat_template_kwargs":[]}"#,
            r#"{"model":7}"#,
            r#"["nemotron"]"#,
            r#"{"model":"nemotron""#,
            r#"{"model":"nemotron"} {}"#,
            "",
        ] {
            assert_eq!(chat(untouched), untouched);
        }
    }

    #[test]
    fn another_model_is_put_in_wherever_one_is_named() {
        let body = r#"{"model":"a", "x":{"model":"a"}, "\u006dodel" : 3}"#;
        let want = r#"{"model":"b\"c", "x":{"model":"a"}, "\u006dodel" : "b\"c"}"#;
        assert_eq!(edited(body, Call::Messages, Some("b\"c")), want);
        assert_eq!(edited("{}", Call::Messages, Some("b")), "{}");
        let want = r#"{"chat_template_kwargs":{"force_nonempty_content":true},"model":"nemotron"}"#;
        assert_eq!(edited(r#"{"model":"a"}"#, Call::Chat, Some("nemotron")), want);
        assert_eq!(edited(r#"{"model":"nemotron"}"#, Call::Chat, Some("a")), r#"{"model":"a"}"#);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("model".to_owned()),
            Just("chat_template_kwargs".to_owned()),
            Just("force_nonempty_content".to_owned()),
            "\\PC{0,6}",
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_edited_is_what_a_reader_would_have_changed(mut body in json(), pretty: bool) {
            let text = if pretty { format!("{body:#}") } else { body.to_string() };
            let now: Value = serde_json::from_str(&edited(&text, Call::Chat, Some("nemotron"))).unwrap();
            if let Some(map) = body.as_object_mut()
                && let Some(model) = map.get_mut("model")
            {
                let is_text = model.is_string();
                *model = json!("nemotron");
                if !is_text {
                    prop_assert_eq!(now, body);
                    return Ok(());
                }
                let given = map.entry("chat_template_kwargs").or_insert(Value::Null);
                if given.is_null() {
                    *given = json!({});
                }
                if let Some(given) = given.as_object_mut() {
                    given.entry("force_nonempty_content").or_insert(json!(true));
                }
            }
            prop_assert_eq!(now, body);
        }

        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[{}\\[\\]\":,a-z \\\\u0]{0,64}") {
            for body in [Bytes::from(bytes), Bytes::from(text)] {
                if serde_json::from_slice::<serde_json::Map<String, Value>>(&body).is_err() {
                    let edited = edit(&body, Call::Chat, model_of(&body).as_deref(), Some("nemotron"));
                    prop_assert_eq!(edited, body);
                }
            }
        }
    }
}
