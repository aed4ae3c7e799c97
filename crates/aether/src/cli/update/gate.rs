//! Gates as people write them.
//!
//! `before prometheus http://p:9090 'sum(rate(errors[1m]))' '< 0.01' every 30s`:
//! when, who is asked, and how often. Words that say how may also come before who is
//! asked; after a program they are its arguments.

use aether_core::duration::Millis;
use aether_core::records::{Condition, GATE_ARGUMENTS_MAX, HttpUrl};
use aether_proto::v1;

/// What a gate looks like.
const EXPECTED: &str = "before|after [step N] [named NAME] [every 30s] [timeout 10s] \
                        [failures N] [inconclusive N], then prometheus URL 'QUERY' '< 0.05', \
                        webhook URL, or command /PROGRAM [ARGUMENT]...";

/// Most words of a gate: those that say how, and a program with its arguments.
const WORDS_MAX: usize = GATE_ARGUMENTS_MAX + 16;

/// Reads a gate.
///
/// # Errors
/// What is wrong, and how it would be right.
pub fn gate(text: &str) -> Result<v1::Gate, String> {
    let words = words(text)?;
    let mut words = words.into_iter();
    let when = words.next().unwrap_or_default().to_ascii_uppercase();
    if !matches!(when.as_str(), "BEFORE" | "AFTER") {
        return Err(format!("a gate is {EXPECTED}"));
    }
    let mut gate = v1::Gate { when, ..Default::default() };
    while let Some(word) = words.next() {
        let has_source = gate.prometheus.is_some() || gate.webhook.is_some();
        let mut next = |what: &str| {
            words.next().ok_or_else(|| format!("'{word}' is to be followed by {what}"))
        };
        match word.as_str() {
            "prometheus" if !has_source => {
                let (url, query) = (url(next("a URL")?)?, next("a query")?);
                let condition = next("a query and a condition such as '< 0.05'")?;
                condition.parse::<Condition>().map_err(|expected| {
                    format!("the condition '{condition}' has to be {expected}")
                })?;
                gate.prometheus = Some(v1::PrometheusGate { url, query, condition });
            }
            "webhook" if !has_source => {
                gate.webhook = Some(v1::WebhookGate { url: url(next("a URL")?)? });
            }
            "command" if !has_source => {
                let program = next("the absolute path of a program")?;
                gate.command = Some(v1::CommandGate { program, arguments: words.collect() });
                return Ok(gate);
            }
            "step" => gate.step = Some(number(&next("a number")?)?),
            "named" => gate.name = next("a name")?,
            "every" => gate.interval_ms = Some(span(&next("a duration")?)?),
            "timeout" => gate.timeout_ms = Some(span(&next("a duration")?)?),
            "failures" => gate.failures_max = Some(number(&next("a number")?)?),
            "inconclusive" => gate.inconclusive_max = Some(number(&next("a number")?)?),
            other => return Err(format!("'{other}' is out of place; a gate is {EXPECTED}")),
        }
    }
    match gate.prometheus.is_some() || gate.webhook.is_some() {
        true => Ok(gate),
        false => Err(format!("nobody is asked; a gate is {EXPECTED}")),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("'{text}' is no number of a step or of measurements"))
}

fn span(text: &str) -> Result<u64, String> {
    text.parse::<Millis>().map(|span| span.0).map_err(|error| error.to_string())
}

fn url(text: String) -> Result<String, String> {
    match HttpUrl::parse(&text) {
        Ok(_) => Ok(text),
        Err(expected) => Err(format!("the URL has to be {expected}")),
    }
}

/// Words, where what stands in quotes of either kind is one; in double quotes a
/// backslash takes the next character as it is.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let quoted = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => quoted.extend(chars.next()),
                        Some(inside) => quoted.push(inside),
                        None => return Err(format!("a quote {c} is not closed")),
                    }
                }
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
        if words.len() > WORDS_MAX {
            return Err(format!("more than {WORDS_MAX} words"));
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_as_people_write_them() {
        let line = r#"before prometheus http://p:9090 'sum(rate(e{job="a b"}[1m]))' "< 0.01" every 30s timeout 5s"#;
        let read = gate(line).unwrap();
        let asked = read.prometheus.clone().unwrap();
        assert_eq!(asked.query, "sum(rate(e{job=\"a b\"}[1m]))");
        assert_eq!((asked.url.as_str(), asked.condition.as_str()), ("http://p:9090", "< 0.01"));
        assert_eq!((read.interval_ms, read.timeout_ms), (Some(30_000), Some(5_000)));
        assert_eq!((read.when.as_str(), read.step, read.name.as_str()), ("BEFORE", None, ""));

        let read =
            gate("After step 2 named smoke webhook http://h/a failures 1 inconclusive 0").unwrap();
        assert_eq!(
            (read.when.as_str(), read.step, read.name.as_str()),
            ("AFTER", Some(2), "smoke")
        );
        assert_eq!((read.failures_max, read.inconclusive_max), (Some(1), Some(0)));
        assert_eq!(read.webhook.unwrap().url, "http://h/a");

        let read = gate(r#"before every 1m command /opt/smoke --every 'a b' "" timeout "q\"\\""#);
        let read = read.unwrap();
        assert_eq!(read.interval_ms, Some(60_000));
        let run = read.command.unwrap();
        let arguments = ["--every", "a b", "", "timeout", "q\"\\"];
        assert_eq!(
            (run.program.as_str(), run.arguments),
            ("/opt/smoke", arguments.map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn what_is_no_gate_is_refused_with_how_it_would_be_right() {
        for (text, says) in [
            ("", "before|after"),
            ("sometimes webhook http://h", "before|after"),
            ("before", "nobody is asked"),
            ("before every 30s", "nobody is asked"),
            ("before webhook", "followed by a URL"),
            ("before webhook https://h", "no TLS client"),
            ("before webhook h", "http:// URL"),
            ("before webhook http://h every 30", "30s"),
            ("before webhook http://h webhook http://i", "'webhook' is out of place"),
            ("before webhook http://h soon", "'soon' is out of place"),
            ("before step x webhook http://h", "no number"),
            ("before prometheus http://p up", "a condition such as"),
            ("before prometheus http://p up 0.1", "one of < <="),
            ("before prometheus http://p 'up", "not closed"),
            ("before command", "absolute path"),
        ] {
            let refused = gate(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
        assert!(
            gate(&format!("before command /a {}", "b ".repeat(60))).unwrap_err().contains("words")
        );
    }
}
