//! Messages between daemon and init.
#![no_main]

use clawkeep_isolation::proto::{Message, Request};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).expect("it was text before");
        serde_json::from_slice::<Request>(&text).expect("and is again");
    }
    if let Ok(message) = serde_json::from_slice::<Message>(bytes) {
        let text = serde_json::to_vec(&message).expect("it was text before");
        serde_json::from_slice::<Message>(&text).expect("and is again");
    }
});
