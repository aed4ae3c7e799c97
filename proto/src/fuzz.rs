//! Messages of the public protocol from any bytes, through conversion and JSON.

use aether_core::table::SliceTable;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::{CASES, bytes, check, mutated};
use prost::Message;

use crate::json::to_json;
use crate::v1;

fn table() -> v1::SliceTable {
    let set = |revision, version: &str| v1::VersionSet {
        revision,
        version: version.to_owned(),
        endpoints: vec![v1::Endpoint {
            instance_id: format!("a-{revision}-0"),
            address: "127.0.0.1:10000".to_owned(),
        }],
    };
    v1::SliceTable {
        slice: "org.example:a@blue".to_owned(),
        table_revision: 9,
        route_revision: 8,
        weight_new: 1,
        weight_old: 3,
        new: Some(set(2, "2.0.0")),
        old: Some(set(1, "1.0.0")),
        ingress: vec![v1::IngressRule {
            host: "shop.example".to_owned(),
            path: "/".to_owned(),
            since: 3,
        }],
        hold_ms: 250,
    }
}

#[test]
fn a_table_is_refused_or_means_the_same_when_it_is_sent_on() {
    let input = prop_oneof![6 => mutated(vec![table().encode_to_vec()]), 1 => bytes(100)];
    check(8 * CASES, input, |bytes| {
        let Ok(wire) = v1::SliceTable::decode(&bytes[..]) else { return };
        match SliceTable::try_from(&wire) {
            Ok(table) => {
                let again = v1::SliceTable::from(&table);
                assert_eq!(SliceTable::try_from(&again).unwrap(), table);
                assert!(table.weights.total() > 0);
            }
            Err(error) => assert!(error.to_string().len() < 1_000, "{error}"),
        }
    });
}

fn holds_null(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Object(members) => {
            members.values().any(|member| member.is_null() || holds_null(member))
        }
        serde_json::Value::Array(items) => items.iter().any(holds_null),
        _ => false,
    }
}

#[test]
fn any_message_can_be_shown_as_json() {
    let update = v1::Update { update_id: "u1".to_owned(), ..Default::default() };
    let version = v1::VersionHealth { error_rate: 0.5, avg_latency_ms: 1.5, ..Default::default() };
    let health = v1::UpdateHealth { new_version: Some(version), ..Default::default() };
    let valid = vec![update.encode_to_vec(), health.encode_to_vec(), table().encode_to_vec()];
    check(4 * CASES, prop_oneof![6 => mutated(valid), 1 => bytes(100)], |bytes| {
        let bytes = &bytes[..];
        let shown = [
            v1::Update::decode(bytes).ok().map(|message| to_json(&message)),
            v1::UpdateHealth::decode(bytes).ok().map(|message| to_json(&message)),
            v1::SliceTable::decode(bytes).ok().map(|message| to_json(&message)),
            v1::Slice::decode(bytes).ok().map(|message| to_json(&message)),
            v1::ClusterStatus::decode(bytes).ok().map(|message| to_json(&message)),
        ];
        for json in shown.into_iter().flatten() {
            let text = json.to_string();
            assert!(!holds_null(&json), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    });
}
