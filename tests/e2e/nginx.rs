//! An update of a server that nobody here wrote.
