//! The ingress against a scripted control plane, real HTTP servers, and
//! clients of every manner.

#[path = "../../../aether-invoker/tests/it/support/mod.rs"]
mod support;

mod client;
mod grpc;
mod http2;
mod load;
mod manners;
mod passing;
mod records;
mod tls;
mod upgrades;

use std::time::Duration;

use aether_core::table::SliceTable;
use aether_ingress::{Config, Ingress};
use aether_invoker::{Invoker, SessionKind};
use tokio::net::TcpListener;

use support::backend::Backend;
use support::control::Control;
use support::{LIMIT, rule, set, table};

/// An ingress that follows a control plane.
struct Setup {
    control: Control,
    invoker: Invoker,
    ingress: Ingress,
}

/// Starts both with some tables, at revision 2.
async fn start(config: Config, tables: &[SliceTable]) -> Setup {
    let control = Control::start(Duration::from_secs(3));
    control.publish(2, tables);
    let nodes = vec![control.address];
    let invoker =
        Invoker::connect(aether_invoker::Config::new("edge", SessionKind::Ingress, nodes)).unwrap();
    invoker.ready(LIMIT).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ingress = Ingress::start(listener, invoker.clone(), config).unwrap();
    Setup { control, invoker, ingress }
}

/// One slice with one instance, for all requests.
async fn one_backend(config: Config) -> (Setup, Backend) {
    let backend = Backend::start("a-1").await;
    let mut route = table("org.example:a", 2, "0:1");
    route.old = set(1, &[backend.row()]);
    route.ingress = vec![rule("", "/")];
    (start(config, &[route]).await, backend)
}
