//! Wire types and services, generated from the `.proto` files, and their
//! conversion from and to the types of `aether-core`.

pub mod convert;
pub mod errors;
#[cfg(test)]
mod frozen;
#[cfg(test)]
mod fuzz;
pub mod json;

// The generated modules nest as their packages do, because they refer to each
// other by relative paths.
#[allow(missing_docs, clippy::all)]
mod aether {
    pub mod v1 {
        tonic::include_proto!("aether.v1");
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("aether.peer.v1");
        }
    }
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("aether.raft.v1");
        }
    }
}

/// What voters say to each other beside Raft. Internal to `aether-server`.
pub use aether::peer::v1 as peer;
/// The Raft protocol between voters. Internal to `aether-replica`.
pub use aether::raft::v1 as raft;
/// The public protocol, package `aether.v1`.
pub use aether::v1;

/// The encoded descriptors of the package `aether.v1`, for server reflection.
/// What only voters say to each other is not among them.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));

/// The services of the package `aether.v1`, with its name before theirs.
pub const PUBLIC_SERVICES: &[&str] = include!(concat!(env!("OUT_DIR"), "/public_services.rs"));

/// Largest gRPC message any of our services takes or sends, in bytes. Whole
/// snapshots and archives are streamed in chunks far below it; a routing
/// snapshot of 10,000 endpoints takes about 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Largest message of a request that is no stream of an agent or a session, in
/// bytes: what most gRPC libraries take by themselves. The largest that makes
/// sense is a piece of an archive, 256 KiB from our own clients.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
