//! Everything dies at once, or only an agent.
