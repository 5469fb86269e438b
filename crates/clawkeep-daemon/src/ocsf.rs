//! The proxy's decisions in the words of OCSF (schema.ocsf.io, version 1.3): Network Activity for connections, HTTP
//! Activity for requests.

use clawkeep_egress::{Action, Event};
use clawkeep_plan::SandboxName;
use serde_json::{Map, Value, json};

const NETWORK_ACTIVITY: u64 = 4001;
const HTTP_ACTIVITY: u64 = 4002;

/// One line of the audit log. `time` is Unix time in milliseconds.
pub fn line(sandbox: &SandboxName, time: u64, event: &Event) -> String {
    let (class, activity) = match (event.action, event.method.as_deref()) {
        (Action::End, _) => (NETWORK_ACTIVITY, 2),
        (_, Some(method)) => (HTTP_ACTIVITY, http_activity(method)),
        (Action::Allow, None) => (NETWORK_ACTIVITY, 1),
        (Action::Deny, None) => (NETWORK_ACTIVITY, 5),
    };
    let denied = event.denies();
    let mut line = Map::new();
    let mut put = |key: &str, value: Value| drop(line.insert(key.to_owned(), value));
    put("time", time.into());
    put("category_uid", 4.into());
    put("class_uid", class.into());
    put("activity_id", activity.into());
    put("type_uid", (class * 100 + activity).into());
    put("severity_id", if denied { 2 } else { 1 }.into());
    put("status_id", if denied { 2 } else { 1 }.into());
    put("action_id", if denied { 2 } else { 1 }.into());
    put("disposition_id", if denied { 2 } else { 1 }.into());
    let product =
        json!({ "name": "Clawkeep", "vendor_name": "Clawkeep", "version": env!("CARGO_PKG_VERSION") });
    put("metadata", json!({ "version": "1.3.0", "profiles": ["security_control"], "product": product }));
    put("src_endpoint", json!({ "name": sandbox }));
    let mut destination = json!({ "hostname": event.host, "port": event.port });
    if let Some(address) = event.address {
        destination["ip"] = address.to_string().into();
    }
    put("dst_endpoint", destination);
    put("connection_info", json!({ "protocol_name": "tcp", "protocol_num": 6, "direction_id": 2 }));
    if let Some(rule) = &event.rule {
        put("firewall_rule", json!({ "name": rule }));
    }
    if let Some(caller) = &event.caller {
        put("actor", json!({ "process": { "file": { "path": caller, "type_id": 1 } } }));
    }
    if let Some(method) = &event.method {
        let url = json!({ "hostname": event.host, "port": event.port, "path": event.path });
        put("http_request", json!({ "http_method": method, "url": url }));
    }
    if let Some(end) = &event.end {
        put("traffic", json!({ "bytes_out": end.sent, "bytes_in": end.received }));
        put("duration", end.millis.into());
    }
    put("status_code", json!(event.reason));
    if !event.message.is_empty() {
        put("message", event.message.clone().into());
    }
    Value::Object(line).to_string() + "\n"
}

fn http_activity(method: &str) -> u64 {
    match method {
        "CONNECT" => 1,
        "DELETE" => 2,
        "GET" => 3,
        "HEAD" => 4,
        "OPTIONS" => 5,
        "POST" => 6,
        "PUT" => 7,
        "TRACE" => 8,
        _ => 99,
    }
}
