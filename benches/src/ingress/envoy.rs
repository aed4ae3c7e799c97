//! Envoy, whose ratio changes by xDS: a route configuration in a file that it watches. By gRPC
//! the same bytes would come over a stream.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::THREADS;
use super::aether::Upstreams;
use super::process::Process;

const TYPES: &str = "type.googleapis.com/envoy";
/// The file with the routes.
const ROUTES: &str = "routes.json";
/// Connections and requests under way that it may have to a version: more than any load has.
const BREAKER: u32 = 100_000;

/// Where it listens, and both versions as clusters. Everything else is Envoy's default: no log
/// of requests, and statistics as it always has them.
pub fn config(address: SocketAddr, upstreams: &Upstreams, dir: &Path) -> String {
    let manager = json!({
        "@type": format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "rds": {
            "route_config_name": "routes",
            "config_source": {
                "resource_api_version": "V3",
                "path_config_source": { "path": dir.join(ROUTES) },
            },
        },
        "http_filters": [{
            "name": "router",
            "typed_config": { "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router") },
        }],
    });
    let listener = json!({
        "name": "in",
        "address": socket(address),
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
    });
    let clusters = [cluster("new", &upstreams.new), cluster("old", &upstreams.old)];
    json!({
        "node": { "id": "bench", "cluster": "bench" },
        "static_resources": { "listeners": [listener], "clusters": clusters },
    })
    .to_string()
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn cluster(name: &str, addresses: &[SocketAddr]) -> Value {
    let endpoint = |address: &SocketAddr| json!({ "endpoint": { "address": socket(*address) } });
    let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
    let breaker = json!({
        "max_connections": BREAKER, "max_pending_requests": BREAKER, "max_requests": BREAKER,
    });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": { "thresholds": [breaker] },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
    })
}

/// The routes at a ratio.
fn routes(new: u32, old: u32) -> Value {
    let weights = json!([
        { "name": "new", "weight": new },
        { "name": "old", "weight": old },
    ]);
    let route = json!({
        "match": { "prefix": "/" },
        "route": { "weighted_clusters": { "clusters": weights }, "timeout": "60s" },
    });
    let routes = json!({
        "@type": format!("{TYPES}.config.route.v3.RouteConfiguration"),
        "name": "routes",
        "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }],
    });
    json!({ "version_info": format!("{new}:{old}"), "resources": [routes] })
}

/// Puts routes in the place of those that it has, in one step.
///
/// # Errors
/// The file cannot be written.
pub fn split(dir: &Path, new: u32, old: u32) -> Result<()> {
    let written = dir.join("routes.new");
    std::fs::write(&written, routes(new, old).to_string())?;
    // It looks for files that are moved there, not for such that are written.
    std::fs::rename(written, dir.join(ROUTES))?;
    Ok(())
}

/// Starts it.
///
/// # Errors
/// It cannot be started.
pub fn start(program: &str, dir: &Path) -> Result<Process> {
    let threads = THREADS.to_string();
    let arguments =
        ["-c", "envoy.json", "--concurrency", &threads, "--disable-hot-restart", "-l", "warn"];
    Process::start(program, &arguments, dir)
}
