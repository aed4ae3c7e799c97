//! A server that knows nothing of Aether: Debian's nginx, whose two versions
//! are two configurations, through every state of an update and back.

use std::path::Path;

use aether_cluster::artifacts::{EXAMPLE, write};
use aether_cluster::load::Load;
use aether_tests::{assert_none_failed, ids, phase, stage, until_alone};

/// Where Debian's packages put it.
const NGINX: &str = "/usr/sbin/nginx";
/// Requests per second.
const RATE: u32 = 400;
/// Requests of each step.
const ENOUGH: u64 = 400;
const INSTANCES: usize = 3;

/// Everything that nginx writes lies in the instance's directory, so that
/// several run beside each other and beside the system's own. Ends on SIGQUIT:
/// it stops to listen and lets calls in flight end.
fn manifest(version: &str) -> String {
    format!(
        "artifact = '{EXAMPLE}:{version}'\n\n\
         [run]\n\
         command = ['{NGINX}', '-p', '${{INSTANCE_DIR}}', '-c', '${{INSTANCE_DIR}}/nginx.conf', \
         '-e', 'stderr']\n\
         config_files = ['nginx.conf']\n\
         stop_signal = 'SIGQUIT'\n\
         grace = '10s'\ndrain = '10s'\n\n\
         [ready]\nhttp = '/ready'\ninterval = '200ms'\n\n\
         [[ingress]]\npath = '/'\n"
    )
}

const CONFIG: &str = "\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
${USER}
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen ${HOST}:${PORT};
        add_header X-Aether-Version ${VERSION} always;
        location = /ready { return 204; }
        location / { return 200 'nginx as ${INSTANCE}, configuration MARK\\n'; }
    }
}
";

/// One version: its configuration differs by its text.
fn version(dir: &Path, version: &str) -> std::path::PathBuf {
    // Root's nginx would hand its workers to a user who may not enter the
    // instance's private directory.
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let config = CONFIG.replace("${USER}", user).replace("MARK", version);
    let files = [("slice.toml", &*manifest(version)), ("nginx.conf", &*config)];
    write(dir, &format!("nginx-{version}"), &files).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_goes_through_an_update_and_back_without_a_lost_request() {
    if !Path::new(NGINX).exists() {
        println!("SKIPPED: {NGINX} is not installed: apt-get install -y nginx-light");
        return;
    }
    let stage = stage(&[]).await;
    for number in ["1.0.0", "2.0.0"] {
        stage.push_dir(&version(stage.scratch(), number)).await.unwrap();
    }
    stage.deploy("1.0.0", INSTANCES as u32).await.unwrap();
    let invoker = stage.invoker("caller").await.unwrap();
    let load = Load::start(stage.ways(&invoker), "/", RATE, "1.0.0");
    load.until_requests(ENOUGH).await;

    let update = stage.start("2.0.0", &[]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    load.phase("2.0.0 deployed");
    load.until_requests(ENOUGH).await;
    for ratio in ["1:3", "1:1", "3:1", "1:0"] {
        load.phase(&format!("to {ratio}"));
        stage.route(ratio).await.unwrap();
        load.phase(ratio);
        load.until_requests(ENOUGH).await;
    }
    stage.cli(&["update", "complete", &update]).await.unwrap();
    load.phase("completing");
    stage.until_state(&update, "COMPLETED").await.unwrap();
    until_alone(&stage, "2.0.0", INSTANCES).await;
    load.phase("2.0.0 alone");
    load.until_requests(ENOUGH).await;
    let second = ids(&stage).await;

    // The first version comes back as an update of its own, which is given up.
    load.phase("1.0.0 returns");
    let update = stage.start("1.0.0", &[]).await.unwrap();
    stage.until_state(&update, "DEPLOYED").await.unwrap();
    stage.route("1:1").await.unwrap();
    load.phase("1.0.0 at 1:1");
    load.until_requests(ENOUGH).await;
    stage.cli(&["update", "rollback", &update]).await.unwrap();
    load.phase("rolling back");
    stage.until_state(&update, "ROLLED_BACK").await.unwrap();
    until_alone(&stage, "2.0.0", INSTANCES).await;
    assert_eq!(ids(&stage).await, second, "no instance of 2.0.0 was replaced");
    load.phase("rolled back");
    load.until_requests(ENOUGH).await;

    let phases = load.stop().await;
    assert_none_failed(&phases);
    assert_eq!(phase(&phases, "2.0.0 deployed").answers("2.0.0"), 0);
    assert_eq!(phase(&phases, "2.0.0 alone").answers("1.0.0"), 0);
    assert_eq!(phase(&phases, "rolled back").answers("1.0.0"), 0);
    let shared = phase(&phases, "1:1");
    assert!(shared.answers("1.0.0") > 0 && shared.answers("2.0.0") > 0);
    invoker.close().await;
    stage.end().await;
}
