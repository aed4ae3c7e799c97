//! The guide, line by line.
