//! Artifacts: content-addressed archives, and how they are packed, checked and
//! unpacked. Where they come from over the network is `fetch`'s business.

mod archive;
mod digest;
#[cfg(test)]
mod fuzz;
mod look;
mod pack;
mod store;
mod unpack;

pub use archive::{ArchiveError, Contents, Limits, inspect};
pub use digest::{Digest, DigestError};
pub use pack::{PackError, Packed, pack, pack_to_file};
pub use store::{Arrival, ArtifactStore, Held, Incoming, SETTLED_AFTER, StoreError, Stored};
pub use unpack::unpack;
