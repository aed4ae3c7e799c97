//! `aether slices`

use aether_core::coordinates::SliceName;
use aether_proto::v1;
use clap::Args;

use super::deploy::slices;
use super::exit::{Exit, Failure};
use super::output::say_if_old;
use super::{Global, render};

/// List what is deployed, or show one slice with its instances
#[derive(Debug, Args)]
pub struct Slices {
    /// Only this slice: group:artifact[@env]
    #[arg(value_name = "SLICE")]
    slice: Option<SliceName>,
    /// Take the answering node's own copy, without asking the leader
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
