//! The leading voter is killed in every state of an update.
