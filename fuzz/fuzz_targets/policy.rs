//! A policy file, as anybody may hand one out: read as one policy that writes itself, or refused with a place.
#![no_main]

use clawkeep_policy::{Caller, Matcher, Policy, RequestPath, Target};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Policy::read(text) {
        Ok(reading) => {
            let written = reading.policy.to_yaml();
            let again = Policy::read(&written).expect("what is written can be read");
            assert_eq!(again.policy, reading.policy, "and says the same");
            let matcher = Matcher::new(&reading.policy);
            for host in ["a.example.com", "10.0.0.1", "host.openshell.internal"] {
                let target = Target::parse(host.as_bytes(), Some(443)).expect("a target");
                let path = RequestPath::parse("/a/b%2Fc;d?e=f&e=g").expect("a path");
                let _ = matcher.explain(&target, Caller::Executable("/usr/bin/curl"), Some(("GET", &path)));
            }
        }
        Err(error) => {
            assert!(error.line >= 1 && !error.code.is_empty() && !error.next.is_empty());
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }
});
