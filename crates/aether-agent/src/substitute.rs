//! Substitution of `${NAME}` in commands, environments and config files. Pure.

/// Values by name, without `${` and `}`.
#[derive(Debug, Clone)]
pub(crate) struct Variables(pub Vec<(&'static str, String)>);

impl Variables {
    /// The text with every known `${NAME}` replaced. Unknown ones stay: they
    /// may be meant for the slice. What was put in is not looked at again.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let known = self.0.iter().find_map(|(name, value)| {
                let after = from[2..].strip_prefix(name)?.strip_prefix('}')?;
                Some((value, after))
            });
            rest = match known {
                Some((value, after)) => {
                    out.push_str(value);
                    after
                }
                None => {
                    out.push_str("${");
                    &from[2..]
                }
            };
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_replaced_once_and_others_stay() {
        let variables = Variables(vec![("PORT", "80".into()), ("A", "${PORT}".into())]);
        for (text, expected) in [
            ("x ${PORT} ${PORT}.", "x 80 80."),
            ("${A}", "${PORT}"),
            ("${OTHER} $PORT ${PORT ${", "${OTHER} $PORT ${PORT ${"),
            ("é${${PORT}}", "é${80}"),
            ("", ""),
        ] {
            assert_eq!(variables.apply(text), expected);
        }
    }
}
