//! Numbers in sentences.

use std::fmt::Display;

/// A number of things: `1 instance`, `2 instances`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let ending = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// What goes with it: `is` or `are`.
pub fn are<N: PartialEq + From<u8>>(count: N) -> &'static str {
    if count == N::from(1) { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        let said = |n: u32| format!("{} {} ready", counted(n, "instance"), are(n));
        assert_eq!(said(0), "0 instances are ready");
        assert_eq!(said(1), "1 instance is ready");
        assert_eq!(said(2), "2 instances are ready");
    }
}
