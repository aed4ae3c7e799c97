//! Updates in a small world around the pure core.

mod ingress;
mod random;
mod scenarios;
mod world;
