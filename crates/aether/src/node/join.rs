//! How a voter comes to a cluster that there is: it asks for its Raft id until
//! it has one.

use std::net::SocketAddr;
use std::time::Duration;

use aether_proto::errors::code_of;
use aether_proto::v1;
use aether_proto::v1::voters_client::VotersClient;
use aether_replica::{Config, Joined, Joining};
use anyhow::{Result, bail};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tracing::info;

/// Time between two rounds of questions. It may take a person to invite it.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one of those that are asked may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Gives the settings of a replica the identity that the cluster admits it
/// under, unless its directory has one already. `ask` are client addresses of
/// the cluster.
///
/// # Errors
/// When its directory cannot be used, the cluster is another one, or it is at a
/// feature level that this node does not support.
pub async fn join(config: Config, ask: &[SocketAddr]) -> Result<Config> {
    let Joining::Asks { dir_id } = Joining::prepare(&config)? else { return Ok(config) };
    let mut reported = String::new();
    loop {
        let mut problems = Vec::new();
        for address in ask {
            match admission(&config, &dir_id, *address).await {
                Ok(raft_id) => {
                    info!(node = config.node_name, raft_id, "the cluster admits this node");
                    return Ok(Config { joined: Some(Joined { raft_id, dir_id }), ..config });
                }
                Err(refused) if refused.code() == Code::InvalidArgument => {
                    bail!("{address} does not admit this node: {}", refused.message());
                }
                // Neither this node nor the cluster will change that by itself.
                Err(refused) if code_of(&refused).as_deref() == Some("level_unsupported") => {
                    bail!(
                        "cluster {} does not admit this node: {}",
                        config.cluster_name,
                        refused.message()
                    );
                }
                // Another node of the cluster would say the same.
                Err(refused) if refused.code() == Code::FailedPrecondition => {
                    problems = vec![refused.message().to_owned()];
                    break;
                }
                Err(status) => problems.push(format!("{address}: {}", status.message())),
            }
        }
        let problem = problems.join("; ");
        if problem != reported {
            info!(node = config.node_name, "waits to be admitted: {problem}");
            reported = problem;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What one node of the cluster answers.
async fn admission(config: &Config, dir_id: &str, address: SocketAddr) -> Result<u64, Status> {
    let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unreachable)?;
    let channel = endpoint.connect_timeout(ANSWER_MAX).connect().await.map_err(unreachable)?;
    let mut request = Request::new(v1::JoinRequest {
        cluster: config.cluster_name.clone(),
        node: config.node_name.clone(),
        dir_id: dir_id.to_owned(),
        feature_level_max: config.feature_level_max,
    });
    request.set_timeout(ANSWER_MAX);
    let answer = VotersClient::new(channel).join(request).await?;
    Ok(answer.into_inner().raft_id)
}
