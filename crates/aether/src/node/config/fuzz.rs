//! Configurations that are almost right, and any environment: what is accepted
//! keeps the rules that nodes rely on.

use std::collections::BTreeMap;
use std::path::Path;

use aether_fuzz::proptest::collection::vec;
use aether_fuzz::proptest::prelude::*;
use aether_fuzz::proptest::sample::select;
use aether_fuzz::{CASES, check, near, text};

use super::{Loaded, NodeConfig};

const VOTER: &str = include_str!("../../../../../cluster/examples/voter-1.toml");
const WORKER: &str = include_str!("../../../../../cluster/examples/worker.toml");
const SINGLE: &str = include_str!("../../../../../cluster/examples/single.toml");

/// What every accepted configuration is.
fn sound(Loaded { config, .. }: &Loaded) {
    let timing = &config.timing;
    assert!(timing.heartbeat.0 > 0 && timing.heartbeat < timing.election_min);
    assert!(timing.election_min < timing.election_max);
    assert!(timing.session_lease > timing.election_max && timing.agent_lease > timing.election_max);
    assert!(timing.max_table_age > timing.session_lease);
    assert!(config.agent.port_reuse_after >= timing.max_table_age);
    assert!(config.agent.instances_max > 0 && !config.agent.ports.is_empty());
    assert!(!config.data_dir.as_os_str().is_empty());
    let roles = config.roles;
    assert!(roles.voter || roles.agent || roles.ingress);
    if config.joins_as_voter() {
        assert!(!config.join.is_empty());
    } else if roles.voter {
        let own = config.voters.iter().filter(|voter| voter.name == config.name);
        assert_eq!(own.count(), 1);
    } else {
        assert!(!config.join.is_empty());
    }
    let addresses = config.listeners();
    for (at, (field, address)) in addresses.iter().enumerate() {
        let taken = addresses[..at].iter().any(|(_, other)| other == address && other.port() != 0);
        assert!(!taken, "{field} has the address of another");
    }
    assert!(config.check_exposure(true).is_ok());
}

fn parse(text: &str, variables: BTreeMap<String, String>) {
    match NodeConfig::parse(Path::new("node.toml"), text, variables) {
        Ok(loaded) => sound(&loaded),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn a_changed_file_is_refused_or_a_configuration_that_works() {
    let file = prop_oneof![6 => near(&[VOTER, WORKER, SINGLE]), 1 => text()];
    check(CASES, file, |text| parse(&text, BTreeMap::new()));
}

#[test]
fn any_environment_is_refused_or_a_configuration_that_works() {
    let name = prop_oneof![
        4 => select(&[
            "NAME", "CLUSTER", "DATA_DIR", "ROLES", "GRPC", "HTTP", "PEER", "INGRESS",
            "INGRESS__LISTEN", "INGRESS__CONNECTIONS_MAX", "VOTERS", "JOIN", "AGENT__PORTS",
            "AGENT__LABELS__ZONE", "AGENT__INSTANCES_MAX", "TIMING__HEARTBEAT", "LOG__JSON",
            "TIMING", "AGENT", "",
        ][..]).prop_map(str::to_owned),
        1 => "[A-Za-z_]{0,20}",
        1 => (1usize..2_000).prop_map(|n| "A__".repeat(n)),
        1 => text(),
    ];
    let value = prop_oneof![
        3 => near(&["127.0.0.1:9080", "50ms", "voter,agent", "true", "7", "30000-30100",
            "[{name = 'n1', peer = '127.0.0.1:8391'}]", "{ zone = 'a' }"]),
        1 => text(),
        1 => (1usize..5_000).prop_map(|n| "[".repeat(n)),
    ];
    check(CASES, vec((name, value), 1..4), |variables| {
        let named = |(name, value): (String, String)| (format!("AETHER_NODE_{name}"), value);
        parse(SINGLE, variables.into_iter().map(named).collect());
    });
}

/// As deep as the system lets a variable's name be: the kernel's limit on one
/// text of an environment is 128 KiB.
#[test]
fn a_variable_that_names_a_deep_table_is_an_error_and_no_overflow() {
    let name = format!("AETHER_NODE_{}B", "A__".repeat(40_000));
    let variables = BTreeMap::from([(name, "1".to_owned())]);
    let error = NodeConfig::parse(Path::new("n"), SINGLE, variables).unwrap_err().to_string();
    assert!(error.contains("AETHER_NODE_A__") && error.len() < 1_000, "{error}");
}
