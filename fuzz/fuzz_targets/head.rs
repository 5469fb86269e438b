//! A request's head, as an agent sends it to the proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawkeep_egress::fuzzing::head(bytes));
