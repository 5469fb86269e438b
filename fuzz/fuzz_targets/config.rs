//! An agent's configuration, which the agent writes: read for its token, and given a route.
#![no_main]

use clawkeep_agents::openclaw::{ModelApi, Route, set_route, token_of};
use clawkeep_agents::{Document, HealthUrl};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(document) = text.parse::<Document>() {
            assert!(document.shown().starts_with("/sandbox/") && !document.shown().contains("/../"));
        }
        let _ = text.parse::<HealthUrl>();
    }
    if let Ok(config) = serde_json::from_slice::<serde_json::Value>(bytes) {
        let token = token_of(&config).map(|token| token.expose().to_owned());
        let route = Route { model: "m".into(), api: ModelApi::OpenAiCompletions };
        let routed = set_route(config, &route);
        assert_eq!(set_route(routed.clone(), &route), routed, "a second time changes nothing");
        assert_eq!(token_of(&routed).map(|token| token.expose().to_owned()), token, "and the token stays");
    }
});
