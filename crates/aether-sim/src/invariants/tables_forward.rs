//! Nobody applies a lower table revision. (Design, section 2, "table revision".)

use crate::invoker::{Invoker, Tables};

/// Looks at tables that a caller is about to apply.
///
/// # Errors
/// That it has applied later ones.
pub fn forward(caller: &Invoker, tables: &Tables) -> Result<(), String> {
    match caller.applied {
        Some(applied) if applied > tables.revision => {
            Err(format!("{} goes from {applied} back to {}", caller.session, tables.revision))
        }
        _ => Ok(()),
    }
}
