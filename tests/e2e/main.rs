//! End-to-end scenarios over real processes: one module per subject.

#![allow(missing_docs)]

mod walk;
