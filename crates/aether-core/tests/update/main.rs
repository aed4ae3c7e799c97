//! Updates in a small world around the pure core.

mod faults;
mod random;
mod scenarios;
mod sessions;
mod world;
