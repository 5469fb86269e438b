//! What the fuzzer feeds: texts of the agent and of a provider.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::edit::{edit, model_of};
use crate::service::Call;
use crate::usage::Reader;

/// The request of an agent. The first bit says whether a model is put in.
///
/// # Panics
/// When anything else is changed.
pub fn request(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let put = (first & 1 == 1).then_some("nemotron");
    let body = Bytes::copy_from_slice(body);
    let edited = edit(&body, Call::Chat, model_of(&body).as_deref(), put);
    match serde_json::from_slice::<Map<String, Value>>(&body) {
        Ok(before) => {
            let now: Map<String, Value> = serde_json::from_slice(&edited).expect("an object stays one");
            let same = |key: &&String| key.as_str() != "model" && key.as_str() != "chat_template_kwargs";
            assert!(before.keys().filter(same).all(|key| before[key] == now[key]), "all else stays");
        }
        // Text that only looks like an object may be changed; what is no text stays.
        Err(_) => assert!(edited == body || std::str::from_utf8(&body).is_ok()),
    }
}

/// The answer of a provider, in two pieces. The first byte says of which type, and where it is cut.
///
/// # Panics
/// When it is read otherwise than in one.
pub fn answer(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let content_type: &[u8] = if first & 1 == 1 { b"text/event-stream" } else { b"application/json" };
    let read = |pieces: &[&[u8]]| {
        let mut reader = Reader::new(content_type);
        pieces.iter().for_each(|piece| reader.read(piece));
        reader.end();
        (reader.usage(), reader.events(), reader.told_of_error())
    };
    let (start, rest) = body.split_at(usize::from(first >> 1).min(body.len()));
    assert_eq!(read(&[start, rest]), read(&[body]), "how it is cut does not matter");
}
