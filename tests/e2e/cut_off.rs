//! Invokers cut off from the control plane.
