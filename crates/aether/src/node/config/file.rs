//! The configuration as it is written: every key optional, nothing unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use aether_core::duration::Millis;
use aether_core::ids::NodeName;
use aether_core::manifest::ByteSize;
use aether_server::GatePrograms;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: Option<NodeName>,
    pub cluster: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub roles: Option<Vec<Role>>,
    pub grpc: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    #[serde(default, deserialize_with = "address_or_table")]
    pub ingress: Ingress,
    #[serde(default)]
    pub voters: Vec<Voter>,
    #[serde(default)]
    pub join: Vec<SocketAddr>,
    #[serde(default)]
    pub agent: Agent,
    #[serde(default)]
    pub storage: Storage,
    #[serde(default)]
    pub reads: Reads,
    #[serde(default)]
    pub gates: Gates,
    #[serde(default)]
    pub compatibility: Compatibility,
    #[serde(default)]
    pub timing: Timing,
    #[serde(default)]
    pub log: Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Voter,
    Agent,
    Ingress,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voter {
    pub name: NodeName,
    pub peer: SocketAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub instances_max: Option<u32>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub ports: Option<Ports>,
    pub bind_ip: Option<IpAddr>,
    pub port_reuse_after: Option<Span>,
    #[serde(default)]
    pub stop_instances_on_exit: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingress {
    pub listen: Option<SocketAddr>,
    pub connections_max: Option<u32>,
    pub header_timeout: Option<Span>,
    pub header_bytes_max: Option<u32>,
    pub streams_max: Option<u32>,
    pub ping_interval: Option<Span>,
    pub ping_timeout: Option<Span>,
    pub body_bytes_max: Option<ByteSize>,
    pub request_timeout: Option<Span>,
    pub retry_safe: Option<bool>,
    pub stall_timeout: Option<Span>,
    pub shutdown_timeout: Option<Span>,
    pub trust_forwarded: Option<bool>,
    pub access_log: Option<bool>,
    pub debug: Option<bool>,
    pub tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    #[serde(default)]
    pub certificates: Vec<CertificateFiles>,
    pub handshake_timeout: Option<Span>,
    pub reload_interval: Option<Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `ingress = "ADDRESS"` is short for a table with nothing but `listen`.
fn address_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ingress, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Ingress;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address such as \"127.0.0.1:8070\", or a table")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Ingress, E> {
            let listen = text.parse().map_err(|_| {
                E::custom("invalid socket address syntax; expected one such as \"127.0.0.1:8070\"")
            })?;
            Ok(Ingress { listen: Some(listen), ..Ingress::default() })
        }
        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Ingress, A::Error> {
            Ingress::deserialize(MapAccessDeserializer::new(members))
        }
    }
    deserializer.deserialize_any(Either)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    pub disk_free_min: Option<ByteSize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reads {
    #[serde(default)]
    pub leases: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    #[serde(default, deserialize_with = "all_or_listed")]
    pub commands: GatePrograms,
}

/// `commands = true` allows any program, a list those that are in it.
fn all_or_listed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GatePrograms, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = GatePrograms;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, or a list of absolute paths of programs")
        }
        fn visit_bool<E: Error>(self, all: bool) -> Result<GatePrograms, E> {
            Ok(if all { GatePrograms::All } else { GatePrograms::None })
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut paths: A) -> Result<GatePrograms, A::Error> {
            let mut listed = BTreeSet::new();
            while let Some(path) = paths.next_element::<String>()? {
                if !path.starts_with('/') {
                    return Err(A::Error::invalid_value(Unexpected::Str(&path), &self));
                }
                listed.insert(path);
            }
            Ok(GatePrograms::Listed(listed))
        }
    }
    deserializer.deserialize_any(Either)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compatibility {
    pub feature_level_max: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    pub heartbeat: Option<Span>,
    pub election_min: Option<Span>,
    pub election_max: Option<Span>,
    pub session_lease: Option<Span>,
    pub agent_lease: Option<Span>,
    pub node_lost: Option<Span>,
    pub max_table_age: Option<Span>,
    pub stop_together: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: Option<String>,
    pub json: Option<bool>,
}

/// A duration, whose error asks for the unit also where a number was given.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub Millis);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with a unit, such as \"500ms\", \"10s\" or \"5m\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map(Span).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Ports as `"10000-29999"`.
#[derive(Debug, Clone)]
pub struct Ports(pub RangeInclusive<u16>);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let range = || {
            let (low, high) = text.split_once('-')?;
            let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
            (low > 0 && low <= high).then_some(low..=high)
        };
        range().map(Ports).ok_or_else(|| {
            let expected = "a range of ports, such as \"10000-29999\"";
            D::Error::invalid_value(Unexpected::Str(&text), &expected)
        })
    }
}
