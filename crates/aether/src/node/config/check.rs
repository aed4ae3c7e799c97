//! Defaults, and the checks of values beside each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use aether_core::duration::Millis;
use aether_core::level::{FEATURE_LEVEL_FIRST, FEATURE_LEVEL_MAX};
use aether_ingress::{CERTIFICATES_MAX, CertificateFiles, TlsConfig};

use super::{
    Agent, Compatibility, ConfigError, Listen, Loaded, Log, NodeConfig, Reads, Roles, Storage,
    Timing, Voter, file,
};

/// What is logged unless set: the log speaks up only in trouble. Consensus warns
/// of every heartbeat that fails, dozens of times a second while a voter is
/// away; the replica says once that it is lost, and once that it is back.
const LOG_LEVEL: &str = "info,openraft=error,chunked_wal=warn,raft_log=warn,sled=warn";

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Largest head of a request that can be allowed. Each connection may hold one.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// Most requests at a time on one client connection that can be allowed: as many
/// as one instance may have in flight by default.
const STREAMS_MAX: u32 = 4_096;

/// Most labels of a node. They are replicated.
const LABELS_MAX: usize = 64;

fn bad<T>(field: &'static str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value { field, problem: problem.into() })
}

/// Fills in defaults and checks the whole.
pub fn resolve(file: file::File) -> Result<Loaded, ConfigError> {
    let Some(name) = file.name else {
        return bad("name", "is missing; give the node a name, such as name = \"node-1\"");
    };
    let Some(data_dir) = file.data_dir.filter(|dir| !dir.as_os_str().is_empty()) else {
        return bad("data_dir", "is missing; say where the node keeps its data");
    };
    let cluster = file.cluster.unwrap_or_else(|| "aether".to_owned());
    if cluster.is_empty() || cluster.len() > 64 || cluster.chars().any(char::is_control) {
        return bad("cluster", "must be 1 to 64 printable characters");
    }
    let voters: Vec<Voter> =
        file.voters.into_iter().map(|v| Voter { name: v.name, peer: v.peer }).collect();
    let local = |port| SocketAddr::new(LOOPBACK, port);
    let own_peer = voters.iter().find(|voter| voter.name == name).map(|voter| voter.peer);
    let listen = Listen {
        grpc: file.grpc.unwrap_or(local(8090)),
        http: file.http.unwrap_or(local(8080)),
        peer: file.peer.or(own_peer).unwrap_or(local(8091)),
        ingress: file.ingress.listen.unwrap_or(local(8070)),
    };
    let timing = timing(&file.timing)?;
    let config = NodeConfig {
        roles: roles(file.roles.as_deref())?,
        agent: agent(file.agent, timing.max_table_age)?,
        ingress: ingress(&file.ingress)?,
        log: Log {
            level: file.log.level.unwrap_or_else(|| LOG_LEVEL.to_owned()),
            json: file.log.json.unwrap_or_default(),
        },
        storage: Storage {
            disk_free_min_bytes: file
                .storage
                .disk_free_min
                .map_or(aether_replica::DISK_FREE_MIN_BYTES, |size| size.0),
        },
        reads: Reads { leases: file.reads.leases },
        gates: file.gates.commands,
        compatibility: compatibility(&file.compatibility)?,
        join: file.join,
        name,
        cluster,
        data_dir,
        listen,
        voters,
        timing,
    };
    check_listeners(&config)?;
    let warnings = if config.roles.voter { check_voter(&config)? } else { check_worker(&config)? };
    Ok(Loaded { config, warnings })
}

/// All roles unless some are named.
fn roles(named: Option<&[file::Role]>) -> Result<Roles, ConfigError> {
    let Some(named) = named else {
        return Ok(Roles { voter: true, agent: true, ingress: true });
    };
    let has = |role| named.contains(&role);
    let roles = Roles {
        voter: has(file::Role::Voter),
        agent: has(file::Role::Agent),
        ingress: has(file::Role::Ingress),
    };
    let distinct = [roles.voter, roles.agent, roles.ingress].iter().filter(|has| **has).count();
    if named.is_empty() {
        return bad("roles", "is empty; name some of \"voter\", \"agent\" and \"ingress\"");
    }
    if distinct != named.len() {
        return bad("roles", "names a role twice");
    }
    Ok(roles)
}

fn compatibility(file: &file::Compatibility) -> Result<Compatibility, ConfigError> {
    let feature_level_max = file.feature_level_max.unwrap_or(FEATURE_LEVEL_MAX);
    if !(FEATURE_LEVEL_FIRST..=FEATURE_LEVEL_MAX).contains(&feature_level_max) {
        return bad(
            "compatibility.feature_level_max",
            format!(
                "({feature_level_max}) must be {FEATURE_LEVEL_FIRST} to {FEATURE_LEVEL_MAX}, the \
                 highest that this release supports"
            ),
        );
    }
    Ok(Compatibility { feature_level_max })
}

fn timing(file: &file::Timing) -> Result<Timing, ConfigError> {
    let or = |span: Option<file::Span>, ms| span.map_or(Millis(ms), |span| span.0);
    let timing = Timing {
        heartbeat: or(file.heartbeat, 40),
        election_min: or(file.election_min, 150),
        election_max: or(file.election_max, 250),
        session_lease: or(file.session_lease, 3_000),
        agent_lease: or(file.agent_lease, 3_000),
        node_lost: or(file.node_lost, 30_000),
        max_table_age: or(file.max_table_age, 10 * 60_000),
        stop_together: or(file.stop_together, 0),
    };
    let Timing { heartbeat, election_min, election_max, .. } = timing;
    if heartbeat == Millis(0) {
        return bad("timing.heartbeat", "must be above zero");
    }
    if heartbeat >= election_min {
        return bad(
            "timing.heartbeat",
            format!("({heartbeat}) must be below timing.election_min ({election_min})"),
        );
    }
    if election_min >= election_max {
        return bad(
            "timing.election_min",
            format!("({election_min}) must be below timing.election_max ({election_max})"),
        );
    }
    let least = Millis(aether_replica::ELECTION_MS_MAX_MIN);
    if election_max < least {
        return bad(
            "timing.election_max",
            format!(
                "({election_max}) must be at least {least}: for so long others count \
                 on a voter that hears a leader"
            ),
        );
    }
    for (field, lease) in
        [("timing.session_lease", timing.session_lease), ("timing.agent_lease", timing.agent_lease)]
    {
        // A leader that was just elected must be able to hear of everyone
        // before anyone counts as gone.
        if lease <= election_max {
            return bad(
                field,
                format!("({lease}) must be above timing.election_max ({election_max})"),
            );
        }
    }
    if timing.node_lost < timing.agent_lease {
        return bad(
            "timing.node_lost",
            format!(
                "({}) must be at least timing.agent_lease ({})",
                timing.node_lost, timing.agent_lease
            ),
        );
    }
    if timing.max_table_age <= timing.session_lease {
        return bad(
            "timing.max_table_age",
            format!(
                "({}) must be above timing.session_lease ({})",
                timing.max_table_age, timing.session_lease
            ),
        );
    }
    Ok(timing)
}

fn agent(file: file::Agent, max_table_age: Millis) -> Result<Agent, ConfigError> {
    let agent = Agent {
        instances_max: file.instances_max.unwrap_or(64),
        labels: file.labels,
        ports: file.ports.map_or(10_000..=29_999, |ports| ports.0),
        bind_ip: file.bind_ip.unwrap_or(LOOPBACK),
        port_reuse_after: file.port_reuse_after.map_or(max_table_age, |span| span.0),
        stop_instances_on_exit: file.stop_instances_on_exit,
    };
    let ports = u32::from(agent.ports.end() - agent.ports.start()) + 1;
    if agent.instances_max == 0 || agent.instances_max > ports {
        return bad(
            "agent.instances_max",
            format!("must be 1 to {ports}, the number of ports in agent.ports"),
        );
    }
    if agent.port_reuse_after < max_table_age {
        return bad(
            "agent.port_reuse_after",
            format!(
                "({}) must not be below timing.max_table_age ({max_table_age}): an old table \
                 could reach another slice's instance",
                agent.port_reuse_after
            ),
        );
    }
    let label = |text: &str| text.len() <= 64 && !text.chars().any(char::is_control);
    let fits = |(key, value): (&String, &String)| !key.is_empty() && label(key) && label(value);
    if agent.labels.len() > LABELS_MAX || !agent.labels.iter().all(fits) {
        return bad(
            "agent.labels",
            format!("must be at most {LABELS_MAX} labels of at most 64 printable characters"),
        );
    }
    Ok(agent)
}

fn ingress(file: &file::Ingress) -> Result<aether_ingress::Config, ConfigError> {
    let default = aether_ingress::Config::default();
    let or = |span: Option<file::Span>, default| span.map_or(default, |span| span.0.duration());
    let count = |number: Option<u32>, default| number.map_or(default, |number| number as usize);
    let ingress = aether_ingress::Config {
        connections_max: count(file.connections_max, default.connections_max),
        header_timeout: or(file.header_timeout, default.header_timeout),
        header_bytes_max: count(file.header_bytes_max, default.header_bytes_max),
        streams_max: file.streams_max.unwrap_or(default.streams_max),
        ping_interval: or(file.ping_interval, default.ping_interval),
        ping_timeout: or(file.ping_timeout, default.ping_timeout),
        body_bytes_max: file.body_bytes_max.map(|size| size.0),
        request_timeout: or(file.request_timeout, default.request_timeout),
        retry_safe: file.retry_safe.unwrap_or(default.retry_safe),
        stall_timeout: or(file.stall_timeout, default.stall_timeout),
        shutdown_timeout: or(file.shutdown_timeout, default.shutdown_timeout),
        trust_forwarded: file.trust_forwarded.unwrap_or(default.trust_forwarded),
        access_log: file.access_log.unwrap_or(default.access_log),
        debug: file.debug.unwrap_or(default.debug),
        tls: file.tls.as_ref().map(tls).transpose()?,
    };
    for (field, wait) in [
        ("ingress.header_timeout", ingress.header_timeout),
        ("ingress.ping_interval", ingress.ping_interval),
        ("ingress.ping_timeout", ingress.ping_timeout),
        ("ingress.request_timeout", ingress.request_timeout),
        ("ingress.stall_timeout", ingress.stall_timeout),
    ] {
        if wait.is_zero() {
            return bad(field, "must be above zero");
        }
    }
    if ingress.connections_max == 0 {
        return bad("ingress.connections_max", "must be above zero");
    }
    if !(1..=STREAMS_MAX).contains(&ingress.streams_max) {
        return bad("ingress.streams_max", format!("must be 1 to {STREAMS_MAX}"));
    }
    let bytes = aether_ingress::HEADER_BYTES_MIN..=HEADER_BYTES_MAX;
    if !bytes.contains(&ingress.header_bytes_max) {
        return bad(
            "ingress.header_bytes_max",
            format!("must be {} to {}", bytes.start(), bytes.end()),
        );
    }
    Ok(ingress)
}

/// The files themselves are looked at when the ingress starts.
fn tls(file: &file::Tls) -> Result<TlsConfig, ConfigError> {
    let files = |files: &file::CertificateFiles| CertificateFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
    };
    let mut tls = TlsConfig::new(file.certificates.iter().map(files).collect());
    if !(1..=CERTIFICATES_MAX).contains(&tls.certificates.len()) {
        return bad(
            "ingress.tls.certificates",
            format!("must name 1 to {CERTIFICATES_MAX} pairs of files"),
        );
    }
    for (field, given, wait) in [
        ("handshake_timeout", file.handshake_timeout, &mut tls.handshake_timeout),
        ("reload_interval", file.reload_interval, &mut tls.reload_interval),
    ] {
        *wait = given.map_or(*wait, |span| span.0.duration());
        if wait.is_zero() {
            return bad("ingress.tls", format!("has a {field} of zero; it must be above zero"));
        }
    }
    Ok(tls)
}

/// Whether both cannot be bound at once. Port 0 is another one each time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_ip
}

fn check_listeners(config: &NodeConfig) -> Result<(), ConfigError> {
    let listeners = config.listeners();
    for (at, (field, address)) in listeners.iter().enumerate() {
        for (other, taken) in &listeners[..at] {
            if collide(*address, *taken) {
                return bad(field, format!("({address}) is already the address of '{other}'"));
            }
        }
        if config.roles.agent && config.agent.ports.contains(&address.port()) {
            return bad(field, format!("({address}) lies within agent.ports"));
        }
    }
    Ok(())
}

/// Checks the list of voters as this voter sees it; gives warnings.
fn check_voter(config: &NodeConfig) -> Result<Vec<String>, ConfigError> {
    let name = &config.name;
    let (mut names, mut peers) = (BTreeSet::new(), BTreeSet::new());
    for voter in &config.voters {
        if !names.insert(&voter.name) {
            return bad("voters", format!("'{}' is listed twice", voter.name));
        }
        if voter.peer.port() == 0 || voter.peer.ip().is_unspecified() {
            return bad("voters", format!("'{}' cannot be reached at {}", voter.name, voter.peer));
        }
        if !peers.insert(voter.peer) {
            return bad(
                "voters",
                format!("'{}' has the peer address of another voter, {}", voter.name, voter.peer),
            );
        }
    }
    let Some(own) = config.voters.iter().find(|voter| voter.name == *name) else {
        if !config.join.is_empty() {
            check_join(config)?;
            return Ok(Vec::new());
        }
        return bad(
            "voters",
            format!(
                "'{name}' is a voter and is not listed; add it: [[voters]] with name = \"{name}\" \
                 and peer = \"{}\", leave \"voter\" out of roles, or, to vote in a cluster that \
                 there is already, name client addresses of it with join",
                config.listen.peer
            ),
        );
    };
    let bound = config.listen.peer;
    if bound.port() != own.peer.port()
        || !(bound.ip().is_unspecified() || bound.ip() == own.peer.ip())
    {
        return bad(
            "peer",
            format!("({bound}) is not where the others look for '{name}', {}", own.peer),
        );
    }
    let count = config.voters.len();
    let even = count.is_multiple_of(2).then(|| {
        format!("{count} voters survive no more failures than {}; use an odd number", count - 1)
    });
    Ok(even.into_iter().collect())
}

/// Checks what a node that is no voter needs; gives warnings.
fn check_worker(config: &NodeConfig) -> Result<Vec<String>, ConfigError> {
    if config.join.is_empty() {
        return bad(
            "join",
            "is missing; a node that is no voter needs client addresses of voters, such as \
             join = [\"127.0.0.1:8090\"]",
        );
    }
    check_join(config)?;
    let voters = (!config.voters.is_empty())
        .then(|| "voters is ignored: this node is none; it finds them by join".to_owned());
    Ok(voters.into_iter().collect())
}

/// Checks the addresses by which a node finds its cluster.
fn check_join(config: &NodeConfig) -> Result<(), ConfigError> {
    if config.join.iter().any(|address| address.port() == 0 || address.ip().is_unspecified()) {
        return bad("join", "names an address that cannot be reached");
    }
    if config.join.contains(&config.listen.grpc) {
        return bad("join", format!("names this node's own address, {}", config.listen.grpc));
    }
    Ok(())
}
