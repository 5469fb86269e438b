//! A host and a port, as an agent spells them.
#![no_main]

use clawkeep_policy::{Caller, Matcher, Policy, Target};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(target) = Target::parse(bytes, Some(443)) else { return };
    let again = Target::parse(target.to_string().as_bytes(), None);
    assert_eq!(again.as_ref(), Ok(&target), "its own name is its name");
    let host = target.host();
    assert!(!host.ends_with('.') && !host.bytes().any(|byte| byte <= b' ' || byte.is_ascii_uppercase()));
    assert!(target.is_address() || target.address().is_none());
    // Where every name below one is allowed, addresses are not, and nobody else's names.
    let policy = "version: 1\nnetwork_policies: {r: {endpoints: [{host: \"**.x.example\", ports: [80, 443]}], \
                  binaries: [{path: /**}]}}";
    let matcher = Matcher::new(&Policy::read(policy).expect("a policy").policy);
    if matcher.connect(&target, Caller::Unknown).is_ok() {
        assert!(host.ends_with(".x.example") && !target.is_address());
    }
});
