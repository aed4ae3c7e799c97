//! `grpc.health.v1`: the node's readiness, for the node as a whole and for each
//! public service. It says what `/health/ready` says, and NOT_SERVING from the
//! moment the node begins to stop.

use std::time::Duration;

use aether_gateway::Readiness;
use aether_proto::PUBLIC_SERVICES;
use aether_proto::v1::agent_logs_server::SERVICE_NAME as AGENT_LOGS;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// How often the node's readiness is looked at. Those who watch health act
/// within seconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The health of this node.
pub struct Health {
    services: Vec<&'static str>,
    reporter: HealthReporter,
}

impl Health {
    /// Of a node that does not serve yet. Logs are served where an agent is.
    pub async fn new(has_agent: bool) -> Self {
        let services = PUBLIC_SERVICES.iter().copied();
        let services = services.filter(|name| has_agent || *name != AGENT_LOGS);
        let health = Self { services: services.collect(), reporter: HealthReporter::new() };
        health.set(ServingStatus::NotServing).await;
        health
    }

    /// The public services that the node has.
    pub fn services(&self) -> &[&'static str] {
        &self.services
    }

    /// The service for a listener.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Says whether the node is ready, until it ends.
    pub async fn report(self, ready: impl Readiness, mut stopping: watch::Receiver<bool>) {
        let mut said = false;
        loop {
            let serves = ready.check().is_ok() && !*stopping.borrow_and_update();
            if serves != said {
                self.set(match serves {
                    true => ServingStatus::Serving,
                    false => ServingStatus::NotServing,
                })
                .await;
                said = serves;
            }
            tokio::select! {
                changed = stopping.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn set(&self, status: ServingStatus) {
        for service in self.services.iter().chain(&[""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
