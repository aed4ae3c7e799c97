//! Colour for words that have a meaning, put on after a text has been laid out,
//! so that columns line up all the same.

use anstyle::{AnsiColor, Style};

const GOOD: Style = AnsiColor::Green.on_default();
const UNDER_WAY: Style = AnsiColor::Cyan.on_default();
const ATTENTION: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// The words: states of updates, instances, nodes and sessions, and verdicts.
const WORDS: &[(&str, Style)] = &[
    ("READY", GOOD),
    ("DEPLOYED", GOOD),
    ("COMPLETED", GOOD),
    ("CONNECTED", GOOD),
    ("healthy", GOOD),
    ("PENDING", UNDER_WAY),
    ("DEPLOYING", UNDER_WAY),
    ("ROUTING", UNDER_WAY),
    ("COMPLETING", UNDER_WAY),
    ("ASSIGNED", UNDER_WAY),
    ("FETCHING", UNDER_WAY),
    ("STARTING", UNDER_WAY),
    ("DRAINING", UNDER_WAY),
    ("STOPPING", UNDER_WAY),
    ("ROLLING_BACK", ATTENTION),
    ("ROLLED_BACK", ATTENTION),
    ("UNREADY", ATTENTION),
    ("CORDONED", ATTENTION),
    ("DRAINED", ATTENTION),
    ("insufficient", ATTENTION),
    ("FAILED", BAD),
    ("CRASHED", BAD),
    ("UNREACHABLE", BAD),
    ("LOST", BAD),
    ("exceeded", BAD),
];

/// The text with the words in their colours. A line of nothing but capitals is
/// the header of a table, where they are names of columns.
pub fn paint(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

fn line(line: &str) -> String {
    if !line.contains(|c: char| c.is_lowercase() || c.is_ascii_digit()) {
        return line.to_owned();
    }
    let mut painted = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(begin) = rest.find(is_part) {
        let end = rest[begin..].find(|c| !is_part(c)).map_or(rest.len(), |len| begin + len);
        let word = &rest[begin..end];
        painted.push_str(&rest[..begin]);
        match WORDS.iter().find(|(known, _)| *known == word) {
            Some((_, style)) => painted.push_str(&format!("{style}{word}{style:#}")),
            None => painted.push_str(word),
        }
        rest = &rest[end..];
    }
    painted.push_str(rest);
    painted
}

/// Whether a character is part of a word. Those of names are too, so that a
/// slice or node that is called like a state is left alone.
fn is_part(c: char) -> bool {
    c.is_alphanumeric() || "_-.:/@".contains(c)
}

#[cfg(test)]
mod tests {
    use super::super::update::tests::routing_update;
    use super::*;

    #[test]
    fn words_have_their_colour_and_headers_have_none() {
        let text = paint("NODE  STATE  ROUTING\nn1    READY  -\nnew 1/2 (1 CRASHED), x");
        assert_eq!(
            text,
            "NODE  STATE  ROUTING\nn1    \u{1b}[32mREADY\u{1b}[0m  -\n\
             new 1/2 (1 \u{1b}[1m\u{1b}[31mCRASHED\u{1b}[0m), x"
        );
        for same in ["ALREADY x1", "a.b:READY 1", "READY-1", "READY", "", "\n\n", "é1 ROUTE"] {
            assert_eq!(paint(same), same);
        }
    }

    #[test]
    fn without_its_colours_the_text_is_the_same() {
        let plain = super::super::update::whole(&routing_update());
        let painted = paint(&plain);
        assert!(painted.contains('\u{1b}'));
        assert_eq!(anstream::adapter::strip_str(&painted).to_string(), plain);
    }

    /// A state that is added must get its meaning here too.
    #[test]
    fn every_state_of_an_update_has_a_colour() {
        for state in aether_core::records::UpdateState::ALL {
            let word = state.as_str();
            assert!(WORDS.iter().any(|(known, _)| *known == word), "{word}");
        }
    }
}
