//! `aether deploy`

use std::time::Duration;

use aether_core::coordinates::SliceReference;
use aether_proto::MESSAGE_BYTES_MAX;
use aether_proto::v1;
use aether_proto::v1::slices_client::SlicesClient;
use clap::Args;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::client::Client;
use super::exit::{Exit, Failure};
use super::options::{Wait, instances};
use super::output::say;
use super::progress::{Progress, Shown};
use super::{Global, render};

/// How often a waiting deploy looks. An instance takes longer to start.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Deploy the first version of a slice
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether deploy org.example:my-slice:1.0.0 --instances 3 --wait
  aether deploy org.example:my-slice:1.0.0@staging

A slice that is deployed gets its next version by 'aether update start'.

See also: aether artifact push, aether update start, aether slices")]
pub struct Deploy {
    /// What to deploy: group:artifact:version[@env]
    #[arg(value_name = "ARTIFACT", value_parser = artifact)]
    artifact: String,
    /// Number of instances [default: 1]
    #[arg(long, short, visible_short_alias = 'n', value_name = "N",
          value_parser = instances())]
    instances: Option<u32>,
    #[command(flatten)]
    wait: Wait,
}

fn artifact(text: &str) -> Result<String, String> {
    let reference: SliceReference = text.parse().map_err(|e| format!("{e}"))?;
    match reference.version {
        Some(_) => Ok(text.to_owned()),
        None => Err("name a version too: group:artifact:version[@env]".to_owned()),
    }
}

impl Deploy {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let message = v1::DeployRequest {
            artifact: self.artifact.clone(),
            instances: self.instances,
            request_id: client.request_id(),
            actor: client.actor(),
        };
        let mut slice =
            client.write(message, async |c, request| slices(c).deploy(request).await).await?;
        if !slice.note.is_empty() {
            say(&slice.note);
        }
        if self.wait.wait {
            slice = wait_until_ready(&client, &slice.slice, &self.wait).await?;
        }
        global.output().show(&slice, render::slice::whole)
    }
}

/// The service, over a channel.
pub fn slices(channel: Channel) -> SlicesClient<Channel> {
    SlicesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Looks again and again until every instance is ready.
///
/// # Errors
/// The slice is gone, or the time is over; then the reason of an instance that
/// is not ready is part of the message.
async fn wait_until_ready(client: &Client, name: &str, wait: &Wait) -> Result<v1::Slice, Failure> {
    let until = Instant::now() + wait.wait_timeout.duration();
    let mut said = String::new();
    let line = Progress::waiting();
    let _shown = Shown(&line);
    loop {
        let message = v1::ListSlicesRequest { slice: name.to_owned(), ..Default::default() };
        let response =
            client.read(message, async |c, request| slices(c).list(request).await).await?;
        let slice = response.slices.into_iter().find(|slice| slice.slice == name);
        let slice = slice.ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("slice {name} is not deployed any more"))
        })?;
        if slice.ready >= slice.instances {
            return Ok(slice);
        }
        let progress = progress(&slice);
        line.now(format!("{name} {} of {} ready", slice.ready, slice.instances));
        if progress != said {
            line.say(&progress);
            said.clone_from(&progress);
        }
        if Instant::now() >= until {
            return Err(Failure::failed(format!(
                "not ready after {}: {progress}; it goes on: 'aether slices {name}'",
                wait.wait_timeout
            )));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// How far a slice is, and why not further where an instance said so.
fn progress(slice: &v1::Slice) -> String {
    let mut text = format!("{} of {} ready", slice.ready, slice.instances);
    for instance in &slice.instances_state {
        if let Some(reason) = &instance.reason {
            let reason = render::update::reason(reason);
            text.push_str(&format!("; {} {}: {reason}", instance.instance_id, instance.state));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_names_its_version() {
        assert!(artifact("a.b:c:1.0.0").is_ok());
        assert!(artifact("a.b:c:1.0.0@blue").is_ok());
        for text in ["a.b:c", "a.b:c@blue", "c:1.0.0", "a.b:c:one"] {
            assert!(artifact(text).is_err(), "{text}");
        }
    }

    #[test]
    fn progress_says_why_an_instance_is_not_ready() {
        let slice = v1::Slice {
            instances: 2,
            ready: 1,
            instances_state: vec![v1::Instance {
                instance_id: "c-1-0".into(),
                state: "CRASHED".into(),
                reason: Some(v1::Reason { code: "exited".into(), message: "status 1".into() }),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(progress(&slice), "1 of 2 ready; c-1-0 CRASHED: exited: status 1");
    }
}
