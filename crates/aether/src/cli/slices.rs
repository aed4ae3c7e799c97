//! `aether slices`

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Args;

use super::client::Client;
use super::deploy::slices;
use super::exit::{Exit, Failure};
use super::output::say_if_old;
use super::{Global, render};

/// List what is deployed, or show one slice with its instances
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aether slices
  aether slices org.example:my-slice

See also: aether logs, aether update list")]
pub struct Slices {
    /// Only this slice: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: Option<SliceName>,
    /// Answer from the node's own copy, which may be old, without the leader
    #[arg(long)]
    stale: bool,
}

impl Slices {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client()?;
        let name = self.slice.as_ref().map(SliceName::to_string);
        let message = v1::ListSlicesRequest {
            slice: name.clone().unwrap_or_default(),
            stale: self.stale,
            ..Default::default()
        };
        let response =
            client.read_all(message, async |c, request| slices(c).list(request).await).await?;
        match (name, response.slices.as_slice()) {
            (None, _) => global.output().show(&response, render::slice::list),
            (Some(_), [slice]) => {
                say_if_old(response.as_of.as_ref());
                global.output().show(slice, render::slice::whole)
            }
            (Some(name), _) => Err(Failure::new(
                Exit::NotFound,
                format!("slice {name} is not deployed; 'aether slices' lists what is"),
            )),
        }
    }
}

/// One slice as it is now, if it is there.
pub async fn find(client: &Client, slice: String) -> Result<Option<v1::Slice>, Failure> {
    let message = v1::ListSlicesRequest { slice, ..Default::default() };
    let found = client.read(message, async |c, request| slices(c).list(request).await).await;
    match found {
        Ok(response) => Ok(response.slices.into_iter().next()),
        Err(failure) if failure.exit() == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}
