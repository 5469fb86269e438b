//! The target of a request, as an agent spells it.
#![no_main]

use clawkeep_policy::RequestPath;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(path) = RequestPath::parse(text) else { return };
    let again = RequestPath::parse(path.path_and_query());
    assert_eq!(again.as_ref(), Ok(&path), "its own spelling is its spelling");
    assert!(path.path().starts_with('/') && !path.path().contains(['\\', '?', '#']));
    assert!(path.path_and_query().bytes().all(|byte| byte.is_ascii_graphic()));
    let plain = path.path().replace("%2F", "/").replace("%3B", ";");
    for segment in plain.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        assert!(!matches!(name, "." | ".."), "a dot segment in {path}");
    }
    assert!(!plain.contains("//"), "an empty segment in {path}");
    assert_eq!(path.has_encoded_slash(), path.path().contains("%2F"));
});
