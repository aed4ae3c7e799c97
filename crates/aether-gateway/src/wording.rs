//! What a parser says of a request, for people: with the member that it is
//! about, and without the types of this program.

/// Why a JSON body does not fit. `path` is where: `instances`, or `.` for the
/// whole.
pub(crate) fn of_body(path: &str, error: &serde_json::Error) -> String {
    let said = plain(&error.to_string());
    // These name the member themselves.
    let is_named = ["unknown field", "missing field", "duplicate field"]
        .iter()
        .any(|beginning| said.starts_with(beginning));
    match path {
        "." | "?" => said,
        _ if is_named || !error.is_data() => said,
        path => format!("{path}: {said}"),
    }
}

/// Why a query does not fit. The framework says `…: tail: what`.
pub(crate) fn of_query(said: &str) -> String {
    let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(said);
    let words = [
        ("invalid digit found in string", "not a whole number of 0 or more"),
        ("number too large to fit in target type", "too large a number"),
        ("cannot parse integer from empty string", "empty, where a whole number is expected"),
        ("provided string was not `true` or `false`", "neither true nor false"),
    ];
    let found = words.iter().find_map(|(theirs, ours)| Some((said.strip_suffix(theirs)?, ours)));
    let said = found.map_or_else(|| plain(said), |(before, ours)| format!("{before}{ours}"));
    format!("the query cannot be read: {said}")
}

/// A type of this program, as what is to be written.
fn plain(said: &str) -> String {
    // The last one is the parser's; those before may be the sender's own words.
    let Some((before, expected)) = said.rsplit_once(", expected ") else { return said.to_owned() };
    let (kind, place) = match expected.find(" at line ") {
        Some(at) => expected.split_at(at),
        None => (expected, ""),
    };
    let whole = |most: u64| format!("a whole number from 0 to {most}");
    let ours = match kind {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" => whole(u64::MAX),
        "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        kind if kind.starts_with("struct ") => "a JSON object".to_owned(),
        kind => kind.to_owned(),
    };
    format!("{before}, expected {ours}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code)]
        instances: u32,
        #[allow(dead_code)]
        rate: Option<f64>,
    }

    #[test]
    fn a_body_that_does_not_fit_is_told_by_member_and_without_types() {
        let told = |text: &str| {
            let mut from = serde_json::Deserializer::from_str(text);
            let error = serde_path_to_error::deserialize::<_, Body>(&mut from).unwrap_err();
            of_body(&error.path().to_string(), error.inner())
        };
        let whole = "a whole number from 0 to 4294967295 at line 1 column";
        for (text, expected) in [
            (
                r#"{"instances":"u32, expected u32"}"#,
                format!(
                    r#"instances: invalid type: string "u32, expected u32", expected {whole} 32"#
                ),
            ),
            (
                r#"{"instances":-1}"#,
                format!("instances: invalid value: integer `-1`, expected {whole} 15"),
            ),
            (
                r#"{"instances":1,"rate":"x"}"#,
                r#"rate: invalid type: string "x", expected a number at line 1 column 25"#.into(),
            ),
            (
                r#"{"colour":1}"#,
                "unknown field `colour`, expected `instances` or `rate` at line 1 column 9".into(),
            ),
            ("{}", "missing field `instances` at line 1 column 2".into()),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn a_query_that_does_not_fit_is_told_without_types() {
        let told = |what: &str| of_query(&format!("Failed to deserialize query string: {what}"));
        assert_eq!(
            told("tail: invalid digit found in string"),
            "the query cannot be read: tail: not a whole number of 0 or more"
        );
        assert_eq!(
            told("stale: provided string was not `true` or `false`"),
            "the query cannot be read: stale: neither true nor false"
        );
        assert_eq!(
            told("unknown field `x`, expected `tail`"),
            "the query cannot be read: unknown field `x`, expected `tail`"
        );
    }
}
