//! Updates in a small world around the pure core.

mod artifacts;
mod audit;
mod blue_green;
mod canary;
mod config;
mod configuration;
mod faults;
mod fuzz;
mod ingress;
mod level;
mod nodes;
mod placement;
mod preconditions;
mod preview;
mod random;
mod recreate;
mod restore;
mod rolling;
mod scenarios;
mod sessions;
mod supersede;
mod undo;
mod voters;
mod world;
