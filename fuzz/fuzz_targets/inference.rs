//! What passes over the model route: an agent's request and a provider's answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    clawkeep_inference::fuzzing::request(bytes);
    clawkeep_inference::fuzzing::answer(bytes);
});
