//! End-to-end scenarios over real processes: one module per subject.

#![allow(missing_docs)]

mod agents;
mod archives;
mod broken;
mod configuration;
mod cut_off;
mod durability;
mod events;
mod failover;
mod full_disk;
mod guide;
mod kept;
mod levels;
mod linearizable;
mod logs;
mod lost;
mod minority;
mod misbehave;
mod nginx;
mod reflection;
mod refusals;
mod reload;
mod rest;
mod restart;
mod rollback;
mod schemathesis;
mod snapshot;
mod strategies;
mod transfer;
mod voters;
mod walk;
