//! The update engine under simulation: the real planner, `apply`, routing
//! schedule and removal fence, in virtual time, with everything around them
//! modelled, from one seed.
//!
//! A seed stands for a scenario (`scenario`): settings and a list of what goes
//! wrong and what people do. `run` plays it and looks at every step whether the
//! invariants (`invariants`) hold; in the end all faults heal, and every update
//! has to end. What fails is shrunk (`shrink`) to what is needed for it. Bugs
//! that are put in on purpose (`planted`) show that all this finds something.
//! `script` plays scenarios that people wrote, and writes down what happened.
//!
//! It is no test of Raft, of sockets or of files: the models stand for them.

pub mod agent;
pub mod campaign;
pub mod clock;
pub mod evidence;
pub mod gates;
pub mod instance;
pub mod invariants;
pub mod invoker;
pub mod leader;
pub mod log;
pub mod operator;
pub mod planted;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod script;
pub mod served;
pub mod shrink;
pub mod trace;
pub mod world;

/// A run is mostly small allocations: in the tests, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
