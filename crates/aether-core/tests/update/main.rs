//! Updates in a small world around the pure core.

mod faults;
mod ingress;
mod placement;
mod random;
mod scenarios;
mod sessions;
mod world;
