//! What a configuration may say, and what it may not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aether_core::duration::Millis;
use aether_core::level::FEATURE_LEVEL_MAX;

use aether_server::GatePrograms;

use super::{ConfigError, Loaded, NodeConfig};

/// The least a voter needs.
const SINGLE: &str = "\
name = 'n1'
data_dir = 'data'
[[voters]]
name = 'n1'
peer = '127.0.0.1:8091'
";

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    NodeConfig::parse(Path::new("node.toml"), text, variables)
}

fn parse(text: &str) -> Result<Loaded, ConfigError> {
    parse_with(text, &[])
}

#[test]
fn defaults_are_the_documented_ones() {
    let Loaded { config, warnings } = parse(SINGLE).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(config.cluster, "aether");
    assert!(config.roles.voter && config.roles.agent && config.roles.ingress);
    assert_eq!(config.listen.grpc.to_string(), "127.0.0.1:8090");
    assert_eq!(config.listen.http.to_string(), "127.0.0.1:8080");
    assert_eq!(config.listen.peer.to_string(), "127.0.0.1:8091");
    assert_eq!(config.listen.ingress.to_string(), "127.0.0.1:8070");
    assert_eq!(config.agent.ports, 10_000..=29_999);
    assert_eq!(config.ingress, aether_ingress::Config::default());
    assert_eq!(config.timing.session_lease, Millis(3_000));
    assert_eq!(config.timing.agent_lease, Millis(3_000));
    assert_eq!(config.timing.node_lost, Millis(30_000));
    assert_eq!(config.timing.max_table_age, Millis(600_000));
    assert_eq!(config.timing.stop_together, Millis(0));
    assert_eq!(config.storage.disk_free_min_bytes, 64 << 20);
    assert!(!config.reads.leases);
    assert_eq!(config.gates, GatePrograms::None);
    assert_eq!(config.compatibility.feature_level_max, FEATURE_LEVEL_MAX);
    assert_eq!(config.agent.port_reuse_after, Millis(600_000));
    assert!(config.log.level.starts_with("info"));
}

#[test]
fn everything_can_be_set() {
    let text = "\
name = 'w1'
cluster = 'test'
data_dir = '/var/lib/aether'
roles = ['agent', 'ingress']
grpc = '[::1]:8490'
http = '127.0.0.1:8480'
join = ['127.0.0.1:8090', '127.0.0.1:8190']
[agent]
instances_max = 8
labels = { zone = 'a' }
ports = '30000-30100'
bind_ip = '127.0.0.2'
port_reuse_after = '20m'
[ingress]
listen = '127.0.0.1:8470'
connections_max = 50
header_timeout = '5s'
header_bytes_max = 8192
streams_max = 20
ping_interval = '8s'
ping_timeout = '9s'
body_bytes_max = '1MiB'
request_timeout = '2m'
retry_safe = true
stall_timeout = '7s'
shutdown_timeout = '0s'
trust_forwarded = true
access_log = true
debug = true
[ingress.tls]
certificates = [
    { certificate = '/etc/a.pem', key = '/etc/a.key' },
    { certificate = '/etc/b.pem', key = '/etc/b.key' },
]
handshake_timeout = '3s'
reload_interval = '1m'
[storage]
disk_free_min = '2GiB'
[gates]
commands = ['/opt/smoke']

[reads]
leases = true
[compatibility]
feature_level_max = 1
[timing]
heartbeat = '100ms'
election_min = '500ms'
election_max = '1s'
session_lease = '5s'
agent_lease = '6s'
max_table_age = '15m'
stop_together = '7s'
[log]
level = 'debug'
json = true
";
    let config = parse(text).unwrap().config;
    assert_eq!(config.storage.disk_free_min_bytes, 2 << 30);
    assert!(config.reads.leases);
    assert!(config.gates.allow("/opt/smoke") && !config.gates.allow("/bin/sh"));
    assert_eq!(config.compatibility.feature_level_max, 1);
    assert!(!config.roles.voter && config.roles.agent && config.roles.ingress);
    let ingress = aether_ingress::Config {
        connections_max: 50,
        header_timeout: Duration::from_secs(5),
        header_bytes_max: 8_192,
        streams_max: 20,
        ping_interval: Duration::from_secs(8),
        ping_timeout: Duration::from_secs(9),
        body_bytes_max: Some(1 << 20),
        request_timeout: Duration::from_secs(120),
        retry_safe: true,
        stall_timeout: Duration::from_secs(7),
        shutdown_timeout: Duration::ZERO,
        trust_forwarded: true,
        access_log: true,
        debug: true,
        tls: Some(aether_ingress::TlsConfig {
            certificates: ["a", "b"]
                .map(|name| aether_ingress::CertificateFiles {
                    certificate: format!("/etc/{name}.pem").into(),
                    key: format!("/etc/{name}.key").into(),
                })
                .into(),
            handshake_timeout: Duration::from_secs(3),
            reload_interval: Duration::from_secs(60),
        }),
    };
    assert_eq!(config.ingress, ingress);
    assert_eq!(config.timing.stop_together, Millis(7_000));
    assert_eq!(config.join.len(), 2);
    assert_eq!(config.agent.labels["zone"], "a");
    assert_eq!(config.agent.ports, 30_000..=30_100);
    assert_eq!(config.agent.port_reuse_after, Millis(1_200_000));
    assert_eq!(config.timing.election_max, Millis(1_000));
    assert!(config.log.json);
    let ingress = "127.0.0.1:8470".parse().unwrap();
    assert_eq!(config.listeners()[2..], [("ingress", ingress)]);
}

/// Each case: what is added to the top and the end of [`SINGLE`], and what the
/// error must name.
#[test]
fn contradictions_are_errors_that_name_the_key() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("colour = 'red'", "", &["colour", "line 1"]),
        ("", "[timing]\nheartbeat = '40'", &["unit", "heartbeat = '40'"]),
        ("", "[timing]\nheartbeat = 40", &["unit", "heartbeat = 40"]),
        ("", "[timing]\nbeat = '1s'", &["beat", "line 8"]),
        ("", "[timing]\nheartbeat = '150ms'", &["timing.heartbeat", "election_min"]),
        ("", "[timing]\nheartbeat = '0s'", &["timing.heartbeat", "above zero"]),
        ("", "[timing]\nelection_min = '1s'", &["timing.election_min", "election_max"]),
        (
            "",
            "[timing]\nheartbeat = '20ms'\nelection_min = '100ms'\nelection_max = '199ms'",
            &["timing.election_max", "at least 200ms"],
        ),
        ("", "[timing]\nsession_lease = '100ms'", &["timing.session_lease", "election_max"]),
        ("", "[timing]\nagent_lease = '0s'", &["timing.agent_lease"]),
        ("", "[timing]\nnode_lost = '1s'", &["timing.node_lost", "timing.agent_lease"]),
        ("", "[timing]\nmax_table_age = '1s'", &["timing.max_table_age", "session_lease"]),
        ("", "[storage]\ndisk_free_min = '64'", &["disk_free_min = '64'", "256MiB or 1GiB"]),
        ("", "[storage]\ndisk_free_min = 64", &["disk_free_min = 64", "line 8"]),
        ("", "[agent]\nport_reuse_after = '1s'", &["agent.port_reuse_after"]),
        ("", "[ingress]\nwait = '1s'", &["wait", "line 8"]),
        ("", "[ingress]\nrequest_timeout = 60", &["unit", "request_timeout = 60"]),
        ("", "[ingress]\nrequest_timeout = '0s'", &["ingress.request_timeout", "above zero"]),
        ("", "[ingress]\nheader_timeout = '0s'", &["ingress.header_timeout", "above zero"]),
        ("", "[ingress]\nstall_timeout = '0s'", &["ingress.stall_timeout", "above zero"]),
        ("", "[ingress]\nconnections_max = 0", &["ingress.connections_max", "above zero"]),
        ("", "[ingress.tls]", &["ingress.tls.certificates", "1 to 64"]),
        ("", "[ingress.tls]\ncertificates = [{ certificate = 'a' }]", &["key", "line 8"]),
        (
            "",
            "[ingress.tls]\nreload_interval = '0s'\ncertificates = [{ certificate = 'a', key = 'b' }]",
            &["ingress.tls", "reload_interval", "above zero"],
        ),
        ("", "[ingress]\nstreams_max = 0", &["ingress.streams_max", "4096"]),
        ("", "[ingress]\nping_timeout = '0s'", &["ingress.ping_timeout", "above zero"]),
        ("", "[ingress]\nheader_bytes_max = 100", &["ingress.header_bytes_max", "8192"]),
        ("", "[ingress]\nheader_bytes_max = 2_000_000", &["ingress.header_bytes_max", "1048576"]),
        ("ingress = '127.0.0.1'", "", &["line 1", "socket address"]),
        ("ingress = 8070", "", &["line 1", "an address", "a table"]),
        ("", "[agent]\nports = '2-1'", &["range of ports"]),
        ("", "[agent]\nports = '0-1'", &["range of ports"]),
        ("", "[agent]\nports = '1-70000'", &["range of ports"]),
        ("", "[agent]\nports = '8000-9000'", &["grpc", "agent.ports"]),
        ("", "[agent]\nports = '10000-10001'\ninstances_max = 3", &["agent.instances_max"]),
        ("", "[agent]\ninstances_max = 0", &["agent.instances_max"]),
        ("", "[agent]\nlabels = { '' = 'x' }", &["agent.labels"]),
        (
            "",
            "[[voters]]\nname = 'n1'\npeer = '127.0.0.1:9091'",
            &["voters", "'n1' is listed twice"],
        ),
        ("", "[[voters]]\nname = 'n2'\npeer = '127.0.0.1:8091'", &["voters", "another voter"]),
        ("", "[[voters]]\nname = 'n2'\npeer = '127.0.0.1:0'", &["voters", "cannot be reached"]),
        ("", "[[voters]]\nname = '../x'\npeer = '127.0.0.1:1'", &["node name"]),
        ("", "[[voters]]\nname = 'n2'", &["peer"]),
        ("peer = '127.0.0.1:9999'", "", &["peer", "127.0.0.1:8091"]),
        ("http = '127.0.0.1:70000'", "", &["line 1"]),
        ("http = '127.0.0.1'", "", &["line 1"]),
        ("http = '127.0.0.1:8090'", "", &["http", "'grpc'"]),
        ("grpc = '0.0.0.0:8070'", "", &["ingress", "'grpc'"]),
        ("cluster = ''", "", &["cluster"]),
        ("roles = []", "", &["roles"]),
        ("roles = ['voter', 'voter']", "", &["roles", "twice"]),
        ("roles = ['boss']", "", &["boss"]),
        ("roles = ['agent']", "", &["join"]),
        ("roles = ['agent']\njoin = ['127.0.0.1:8090']", "", &["join", "own address"]),
        ("roles = ['agent']\njoin = ['127.0.0.1:0']", "", &["join"]),
        ("name = 'again'", "", &["duplicate key", "line 2"]),
    ];
    for (top, end, parts) in cases {
        let error = parse(&format!("{top}\n{SINGLE}{end}")).expect_err(&format!("{top}{end}"));
        for part in *parts {
            assert!(error.to_string().contains(part), "'{part}' in: {error}");
        }
    }
    for (text, part) in [
        ("", "name: is missing"),
        ("name = 'n1'", "data_dir: is missing"),
        ("name = 'n1'\ndata_dir = ''", "data_dir: is missing"),
        ("name = 'n1'\ndata_dir = 'd'", "[[voters]] with name = \"n1\""),
        ("name = 'n1'\ndata_dir =", "line 2"),
        ("name = 'a/b'", "node name"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "'{part}' in: {error}");
    }
}

#[test]
fn an_even_number_of_voters_is_warned_about() {
    let text = format!("{SINGLE}[[voters]]\nname = 'n2'\npeer = '127.0.0.1:8191'\n");
    let warnings = parse(&text).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("odd"), "{}", warnings[0]);
}

#[test]
fn a_voter_listens_where_the_others_look_for_it() {
    let moved = SINGLE.replace("8091", "9091");
    assert_eq!(parse(&moved).unwrap().config.listen.peer.port(), 9091);
    let everywhere = format!("peer = '0.0.0.0:8091'\n{SINGLE}");
    assert!(parse(&everywhere).is_ok());
}

#[test]
fn variables_override_the_file() {
    let variables = [
        ("AETHER_NODE_HTTP", "127.0.0.1:9080"),
        ("AETHER_NODE_DATA_DIR", "/tmp/x"),
        ("AETHER_NODE_NAME", "n1"),
        ("AETHER_NODE_ROLES", "voter,agent"),
        ("AETHER_NODE_TIMING__HEARTBEAT", "50ms"),
        ("AETHER_NODE_AGENT__INSTANCES_MAX", "7"),
        ("AETHER_NODE_AGENT__LABELS__ZONE", "12"),
        ("AETHER_NODE_LOG__JSON", "true"),
        ("AETHER_NODE_VOTERS", "[{name = 'n1', peer = '127.0.0.1:8391'}]"),
    ];
    let config = parse_with(SINGLE, &variables).unwrap().config;
    assert_eq!(config.listen.http.port(), 9080);
    assert_eq!(config.data_dir, PathBuf::from("/tmp/x"));
    assert!(config.roles.agent && !config.roles.ingress);
    assert_eq!(config.timing.heartbeat, Millis(50));
    assert_eq!(config.agent.instances_max, 7);
    assert_eq!(config.agent.labels["zone"], "12");
    assert!(config.log.json);
    assert_eq!(config.listen.peer.port(), 8391);
}

#[test]
fn either_form_of_the_ingress_is_overridden_by_either() {
    let short = "AETHER_NODE_INGRESS";
    let listen = "AETHER_NODE_INGRESS__LISTEN";
    let wait = "AETHER_NODE_INGRESS__REQUEST_TIMEOUT";
    for (top, end) in [
        ("", ""),
        ("ingress = '127.0.0.1:1'", ""),
        ("", "[ingress]\nlisten = '127.0.0.1:1'\nrequest_timeout = '1s'"),
        ("", "[ingress]\nrequest_timeout = '1s'"),
    ] {
        for address in [short, listen] {
            let text = format!("{top}\n{SINGLE}{end}");
            let variables = [(address, "127.0.0.1:9070"), (wait, "9s")];
            let config = parse_with(&text, &variables).unwrap().config;
            assert_eq!(config.listen.ingress.port(), 9070, "{text}");
            assert_eq!(config.ingress.request_timeout, Duration::from_secs(9), "{text}");
        }
    }
    let text = format!("{SINGLE}[ingress]\nstall_timeout = '3s'");
    let config = parse_with(&text, &[(short, "127.0.0.1:9070")]).unwrap().config;
    assert_eq!(config.ingress.stall_timeout, Duration::from_secs(3), "the rest is kept");
}

#[test]
fn a_bad_variable_is_named() {
    for (variable, value, part) in [
        ("AETHER_NODE_COLOUR", "red", "colour"),
        ("AETHER_NODE_TIMING__BEAT", "1s", "beat"),
        ("AETHER_NODE_TIMING__HEARTBEAT", "40", "unit"),
        ("AETHER_NODE_HTTP", "nowhere", "socket address"),
        ("AETHER_NODE_INGRESS", "nowhere", "socket address"),
        ("AETHER_NODE_INGRESS__RETRY_SAFE", "maybe", "boolean"),
        ("AETHER_NODE_NAME__FIRST", "x", "'name' has no members"),
        ("AETHER_NODE_", "x", "names no key"),
        ("AETHER_NODE_AGENT__INSTANCES_MAX", "many", "many"),
        ("AETHER_NODE_DATA_DIR", "a\"\nname = 'evil'", ""),
    ] {
        let result = parse_with(SINGLE, &[(variable, value)]);
        if part.is_empty() {
            // Odd, but a name of a directory all the same, and nothing more.
            let config = result.unwrap().config;
            assert_eq!(config.name.as_str(), "n1");
            assert_eq!(config.data_dir, PathBuf::from(value));
            continue;
        }
        let error = result.unwrap_err().to_string();
        assert!(error.contains(variable) && error.contains(part), "{error}");
    }
}

#[test]
fn only_loopback_is_bound_without_insecure() {
    let exposed = |top: &str, end: &str| {
        let config = parse(&format!("{top}\n{SINGLE}{end}")).unwrap().config;
        assert!(config.check_exposure(true).is_ok());
        config.check_exposure(false).map_err(|e| e.to_string())
    };
    assert_eq!(exposed("", ""), Ok(()));
    assert_eq!(exposed("grpc = '[::1]:8090'", ""), Ok(()));
    for (top, end, field) in [
        ("grpc = '0.0.0.0:8090'", "", "grpc"),
        ("http = '10.0.0.1:8080'", "", "http"),
        ("peer = '0.0.0.0:8091'", "", "peer"),
        ("ingress = '[::]:8070'", "", "ingress"),
        ("", "[agent]\nbind_ip = '10.0.0.1'", "agent.bind_ip"),
    ] {
        let error = exposed(top, end).unwrap_err();
        assert!(error.starts_with(field) && error.contains("--insecure"), "{error}");
    }
    let tls = "[ingress.tls]\ncertificates = [{ certificate = 'a', key = 'b' }]";
    assert_eq!(exposed("", &format!("[ingress]\nlisten = '[::]:8070'\n{tls}")), Ok(()));
    assert!(exposed("http = '0.0.0.0:8080'", tls).is_err());
    let without = "roles = ['voter']\ningress = '0.0.0.0:8070'";
    assert_eq!(exposed(without, ""), Ok(()), "a listener that is not used exposes nothing");
}

#[test]
fn the_examples_load_and_fit_together() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/examples");
    let load = |name: &str| {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = NodeConfig::parse(&path, &text, BTreeMap::new()).unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{name}");
        loaded.config.check_exposure(false).unwrap();
        loaded.config
    };
    load("single.toml");
    let voters = ["voter-1.toml", "voter-2.toml", "voter-3.toml"].map(load);
    let worker = load("worker.toml");
    let newcomer = load("voter-4.toml");
    assert!(newcomer.joins_as_voter());
    assert!(voters.iter().all(|voter| !voter.joins_as_voter()));
    assert!(newcomer.join.iter().all(|at| voters.iter().any(|voter| voter.listen.grpc == *at)));
    let mut addresses: Vec<_> = voters
        .iter()
        .chain([&worker, &newcomer])
        .flat_map(|config| config.listeners())
        .map(|(_, address)| address)
        .collect();
    let all = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), all, "every listener has an address of its own");
    for config in &voters {
        assert_eq!(config.voters, voters[0].voters);
        assert!(worker.join.contains(&config.listen.grpc));
        assert_ne!(config.data_dir, worker.data_dir);
    }
    let shared = |a: &NodeConfig, b: &NodeConfig| {
        a.agent.ports.start() <= b.agent.ports.end() && b.agent.ports.start() <= a.agent.ports.end()
    };
    for (at, config) in voters.iter().enumerate() {
        let others = voters[..at].iter().chain([&worker]);
        assert!(others.into_iter().all(|other| !shared(config, other)), "ports are shared");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = NodeConfig::load(Path::new("/nowhere/node.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/node.toml"), "{error}");
}
