//! nginx: as a proxy, whose ratio changes when it reads its configuration again; and without a
//! proxy in between, as the base that all are measured against.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::aether::Upstreams;
use super::process::Process;
use super::{FILES, THREADS};

/// Where Debian's packages put it.
pub const PROGRAM: &str = "/usr/sbin/nginx";

const CONFIG: &str = "\
daemon off;
worker_processes THREADS;
worker_rlimit_nofile 32768;
pid nginx.pid;
error_log stderr warn;
USER
events { worker_connections 15000; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    open_file_cache max=16;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_header_timeout 1h;
    UPSTREAM
    server {
        listen HTTP1 backlog=4096;
        listen HTTP2 http2 backlog=4096;
        LOCATION
    }
}
";

/// Keeps as many connections to instances as the load can use; buffers a whole answer, so that
/// none goes to the disk.
const PROXY: &str = "location / {
            proxy_pass http://out;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffers 16 8k;
            proxy_max_temp_file_size 0;
        }";

fn common([http1, http2]: [SocketAddr; 2], upstream: &str, location: &str) -> String {
    // The texts of others first: they have none of our words.
    CONFIG
        .replace("UPSTREAM", upstream)
        .replace("LOCATION", location)
        .replace("THREADS", &THREADS.to_string())
        .replace("USER", super::user())
        .replace("HTTP1", &http1.to_string())
        .replace("HTTP2", &http2.to_string())
}

/// The configuration of a proxy. Without TLS a listener speaks either HTTP/1.1 or HTTP/2.
pub fn proxy(addresses: [SocketAddr; 2], upstreams: &Upstreams, new: u32, old: u32) -> String {
    let mut servers = String::new();
    for (of, weight) in [(&upstreams.new, new), (&upstreams.old, old)] {
        for upstream in of {
            // It knows no weight of nothing.
            servers += &match weight {
                0 => format!("server {upstream} down; "),
                weight => format!("server {upstream} weight={weight}; "),
            };
        }
    }
    let upstream = format!(
        "upstream out {{ {servers}keepalive 1024; keepalive_requests 1000000000; \
         keepalive_timeout 1h; }}"
    );
    common(addresses, &upstream, PROXY)
}

/// The configuration of the base: the files of the instances, beside it.
pub fn base(addresses: [SocketAddr; 2]) -> String {
    common(addresses, "", "location / { root files; }")
}

/// Writes the files of the base.
///
/// # Errors
/// They cannot be written.
pub fn write_files(dir: &Path) -> Result<()> {
    let dir = dir.join("files");
    std::fs::create_dir_all(&dir)?;
    for (name, bytes) in FILES {
        std::fs::write(dir.join(name), "x".repeat(bytes))?;
    }
    Ok(())
}

/// Starts it.
///
/// # Errors
/// It cannot be started.
pub fn start(dir: &Path) -> Result<Process> {
    let prefix = dir.to_str().unwrap_or(".");
    let config = dir.join("nginx.conf");
    let config = config.to_str().unwrap_or("nginx.conf");
    Process::start(PROGRAM, &["-p", prefix, "-c", config, "-e", "stderr"], dir)
}

/// Has it read its configuration again.
pub fn reload(process: &Process) {
    process.signal(Signal::SIGHUP);
}
