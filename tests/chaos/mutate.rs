//! A configuration of OpenClaw made wrong in one of the ways in which people, editors, disks and agents do it.

use serde_json::{Value, json};
use testkit::Rng;

/// The bytes to put in its place, and what was done, for a person.
pub fn mutate(healthy: &[u8], rng: &mut Rng) -> (Vec<u8>, String) {
    let text = String::from_utf8_lossy(healthy).into_owned();
    match rng.within(0..12) {
        0 => {
            let cut = usize::try_from(rng.within(0..healthy.len() as u64)).unwrap();
            (healthy[..cut].to_vec(), format!("cut off after {cut} bytes"))
        }
        1 => {
            let at = usize::try_from(rng.within(0..healthy.len() as u64)).unwrap();
            let mut bytes = healthy.to_vec();
            bytes[at] ^= 1 << rng.within(0..8);
            (bytes, format!("a bit flipped at {at}"))
        }
        2 => (vec![0; healthy.len()], "all zeros, as after a power cut".into()),
        3 => (text.replacen(':', "", 1).into_bytes(), "a colon lost".into()),
        4 => (format!("{text}\n<<<<<<< HEAD\n").into_bytes(), "a merge conflict".into()),
        5 => (text.replace('"', "\u{201c}").into_bytes(), "typographic quotes".into()),
        _ => {
            let mut config: Value = serde_json::from_slice(healthy).unwrap();
            let done = mutate_value(&mut config, rng);
            (serde_json::to_vec_pretty(&config).unwrap(), done)
        }
    }
}

fn mutate_value(config: &mut Value, rng: &mut Rng) -> String {
    let paths = paths(config);
    let path = rng.pick::<String>(&paths);
    let wrongs = [
        Value::Null,
        json!(-1),
        json!(""),
        json!([]),
        json!({"unknown": true}),
        json!(1e308),
        json!("\u{0}\u{1b}[2J"),
        json!("x".repeat(10_000)),
    ];
    let wrong = rng.pick::<Value>(&wrongs);
    match rng.within(0..3) {
        0 => {
            let (parent, key) = path.rsplit_once('/').unwrap();
            if let Some(object) = config.pointer_mut(parent).and_then(Value::as_object_mut) {
                object.remove(key);
            }
            format!("{path} removed")
        }
        1 => {
            if let Some(place) = config.pointer_mut(path) {
                *place = wrong.clone();
            }
            format!("{path} made {:.40}", wrong.to_string())
        }
        _ => {
            let place = config.pointer_mut(path).filter(|place| place.is_object());
            let parent = match place {
                Some(_) => path.as_str(),
                None => path.rsplit_once('/').unwrap().0,
            };
            if let Some(object) = config.pointer_mut(parent).and_then(Value::as_object_mut) {
                object.insert("clawkeepUnknownKey".into(), wrong.clone());
            }
            format!("an unknown key in {parent}")
        }
    }
}

/// The pointer (RFC 6901) of every member of an object in it.
fn paths(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((at, value)) = open.pop() {
        for (key, inner) in value.as_object().into_iter().flatten() {
            let path = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
            found.push(path.clone());
            open.push((path, inner));
        }
    }
    found
}
