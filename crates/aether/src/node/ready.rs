//! Whether a node serves: what `/health/ready` says.

use std::sync::Arc;

use aether_agent::Agent;
use aether_ingress::Ingress;
use aether_server::Server;
use tokio::sync::watch;

/// Says whether one part serves.
type Says = Box<dyn Fn() -> bool + Send + Sync>;

/// The parts of a node that have to serve, each with what is said until it
/// does. Only a voter becomes unready again, without a leader: agent and
/// ingress serve on by what they heard last. None is from the moment the node
/// begins to stop.
#[derive(Default)]
pub struct Readiness {
    parts: Vec<(&'static str, Says)>,
}

impl Readiness {
    /// Of a node with these parts.
    pub fn of(
        stopping: watch::Receiver<bool>,
        server: Option<&Arc<Server>>,
        agent: Option<&Agent>,
        ingress: Option<&Ingress>,
    ) -> Self {
        let mut ready = Self::default();
        ready.needs("the node is stopping", move || !*stopping.borrow());
        if let Some(server) = server {
            let server = Arc::clone(server);
            ready.needs("no leader is known", move || server.is_ready());
        }
        if let Some(agent) = agent {
            let heard = agent.was_heard();
            ready.needs("the control plane has not heard yet what runs on this node", heard);
        }
        if let Some(ingress) = ingress {
            ready.needs("the ingress has no routing tables yet", ingress.readiness());
        }
        ready
    }

    fn needs(&mut self, otherwise: &'static str, says: impl Fn() -> bool + Send + Sync + 'static) {
        self.parts.push((otherwise, Box::new(says)));
    }
}

impl aether_gateway::Readiness for Readiness {
    fn check(&self) -> Result<(), String> {
        match self.parts.iter().find(|(_, is_ready)| !is_ready()) {
            Some((why, _)) => Err((*why).to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use aether_gateway::Readiness as _;

    use super::*;

    #[test]
    fn a_node_is_ready_when_all_of_its_parts_are() {
        let mut ready = Readiness::default();
        assert_eq!(ready.check(), Ok(()));
        let parts = ["first", "second"].map(|name| {
            let part = Arc::new(AtomicBool::new(false));
            let says = Arc::clone(&part);
            ready.needs(name, move || says.load(Ordering::Relaxed));
            part
        });
        assert_eq!(ready.check(), Err("first".to_owned()));
        parts[0].store(true, Ordering::Relaxed);
        assert_eq!(ready.check(), Err("second".to_owned()));
        parts[1].store(true, Ordering::Relaxed);
        assert_eq!(ready.check(), Ok(()));
        parts[0].store(false, Ordering::Relaxed);
        assert_eq!(ready.check(), Err("first".to_owned()));
    }
}
