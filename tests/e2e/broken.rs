//! Versions that cannot start.
