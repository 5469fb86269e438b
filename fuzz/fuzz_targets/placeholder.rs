//! A header's value, as an agent sends it to the proxy in the hope of a secret.
#![no_main]

libfuzzer_sys::fuzz_target!(|value: &[u8]| clawkeep_credentials::fuzzing::placeholder(value));
