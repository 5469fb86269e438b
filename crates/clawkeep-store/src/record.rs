use clawkeep_plan::SandboxName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the operator wants of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It should run; whatever ends it, it is brought back.
    Running,
    /// It should not.
    Stopped,
}

/// All that is known about a sandbox over reboots. Free of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its name; never changes.
    pub name: SandboxName,
    /// The lowest number that was free when it was made; gives its range of uids; never changes.
    pub slot: u32,
    /// Unix time in milliseconds; never changes.
    pub created_at: u64,
    /// Whether it should run.
    pub desired: Desired,
    /// The adapter's configuration. Opaque here.
    pub adapter: Value,
    /// The model route's configuration, without keys. Opaque here.
    pub route: Value,
    /// The isolation's configuration. Opaque here.
    pub isolation: Value,
    /// What may leave it. Opaque here; null is nothing but the model route, as in records of before.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub policy: Value,
    /// The port on the host's loopback that leads to its dashboard.
    pub dashboard_port: Option<u16>,
    /// Whether a command without a name means this one. At most one has it;
    /// [`Store::set_default`](crate::Store::set_default) moves it.
    pub default: bool,
    /// Onboarding has begun and not ended: resume it or remove it.
    pub onboarding: bool,
}

/// What a new sandbox is made of; the store adds the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSandbox {
    /// As in [`SandboxRecord`], and so on.
    pub name: SandboxName,
    /// Whether it should run.
    pub desired: Desired,
    /// The adapter's configuration.
    pub adapter: Value,
    /// The model route's configuration, without keys.
    pub route: Value,
    /// The isolation's configuration.
    pub isolation: Value,
    /// What may leave it.
    pub policy: Value,
    /// The port on the host's loopback that leads to its dashboard.
    pub dashboard_port: Option<u16>,
    /// Whether onboarding has still to end.
    pub onboarding: bool,
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub(crate) fn new(name: &str) -> NewSandbox {
        NewSandbox {
            name: name.parse().unwrap(),
            desired: Desired::Running,
            adapter: json!({"kind": "openclaw", "n": 0}),
            route: Value::Null,
            isolation: json!({}),
            policy: Value::Null,
            dashboard_port: Some(18789),
            onboarding: true,
        }
    }

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn survives_a_round_trip_through_json(
            (adapter, route, isolation, policy) in (any_value(), any_value(), any_value(), any_value()),
            (slot, created_at, port) in (any::<u32>(), any::<u64>(), any::<Option<u16>>()),
            (stopped, default, onboarding) in any::<(bool, bool, bool)>(),
        ) {
            let record = SandboxRecord {
                name: "box".parse().unwrap(),
                slot,
                created_at,
                desired: if stopped { Desired::Stopped } else { Desired::Running },
                adapter,
                route,
                isolation,
                policy,
                dashboard_port: port,
                default,
                onboarding,
            };
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<SandboxRecord>(&text).unwrap(), record);
        }
    }
}
