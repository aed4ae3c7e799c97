//! Names that a person cannot see whole, or cannot tell from one another.
//!
//! A name with a character that is not drawn, or that turns the direction of
//! the text around it, reads as another one ("Trojan Source", CVE-2021-42574).
//! Two names look alike when their skeletons are the same, as UTS #39 section 4
//! ("Confusable Detection") has it, or their forms by NFKC (UAX #15) without
//! regard to case.
//!
//! Among names of ASCII alone nothing is refused: `0` and `O`, or `rn` and `m`,
//! are in every large tree. Nor is a name refused for its letters as such, of
//! whatever script.

use std::collections::BTreeSet;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_security::skeleton;

use super::digest::Digest;

/// Letters and marks that are drawn as nothing although they are neither
/// controls nor formats: the joiner of graphemes, and fillers.
const BLANK: [char; 7] =
    ['\u{34F}', '\u{115F}', '\u{1160}', '\u{17B4}', '\u{17B5}', '\u{3164}', '\u{FFA0}'];

/// Whether a character is not drawn, or changes how others are: controls,
/// formats (zero width, directions, tags), separators of lines and paragraphs.
pub(super) fn hidden(letter: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    let kind = letter.general_category();
    matches!(kind, Control | Format | LineSeparator | ParagraphSeparator) || BLANK.contains(&letter)
}

/// A name with its hidden characters as `\u{…}`.
pub(super) fn spelled(name: &str) -> String {
    let mut spelled = String::new();
    for letter in name.chars() {
        match hidden(letter) {
            true => spelled.extend(letter.escape_unicode()),
            false => spelled.push(letter),
        }
    }
    spelled
}

/// What the names so far look like.
#[derive(Default)]
pub(super) struct Looks {
    /// Forms of every name; made when the first one comes that is not ASCII.
    all: Option<BTreeSet<Digest>>,
    /// Forms of the names that are not ASCII.
    foreign: BTreeSet<Digest>,
}

impl Looks {
    /// Takes a name, unless it looks like one of those before, which must be
    /// `earlier`; then gives that one.
    pub fn add<'a>(
        &mut self,
        name: &str,
        earlier: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<String> {
        if name.is_ascii() && self.all.is_none() {
            return None;
        }
        let all = self.all.get_or_insert_with(|| earlier.clone().flat_map(forms).collect());
        let forms = forms(name);
        let against = if name.is_ascii() { &self.foreign } else { &*all };
        if let Some(same) = forms.iter().find(|form| against.contains(form)) {
            let candidates = earlier.filter(|other| !(name.is_ascii() && other.is_ascii()));
            return candidates.map(str::to_owned).find(|other| self::forms(other).contains(same));
        }
        all.extend(forms);
        if !name.is_ascii() {
            self.foreign.extend(forms);
        }
        None
    }
}

/// What is the same for names that look alike: by their digests, for the names
/// of an archive may be many and long.
fn forms(name: &str) -> [Digest; 3] {
    let plain: String = name.chars().filter(|letter| !is_variation(*letter)).collect();
    let folded: String = folded(&plain.nfkc().collect::<String>()).nfkc().collect();
    let look: String = skeleton(&plain).collect();
    let folded_look: String = skeleton(&folded).collect();
    // Two names are held against each other by one way at a time.
    [("look", look), ("folded look", folded_look), ("folded", folded)]
        .map(|(way, form)| Digest::of(format!("{way}: {form}").as_bytes()))
}

/// Without regard to case. By way of upper case, as `ß` is `SS`, and letter by
/// letter, for the end of a word has no part in it.
fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Chooses among the drawings of the letter before it.
fn is_variation(letter: char) -> bool {
    matches!(letter, '\u{180B}'..='\u{180F}' | '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name that a later one was taken for.
    fn clash(names: &[&str]) -> Option<String> {
        let mut looks = Looks::default();
        (0..names.len()).find_map(|at| looks.add(names[at], names[..at].iter().copied()))
    }

    #[test]
    fn names_that_look_alike_are_told_whatever_their_order() {
        for (one, other) in [
            ("bin/a", "bin/\u{430}"),         // Cyrillic a
            ("bin/A", "bin/\u{430}"),         // and in another case
            ("bin/a", "bin/\u{410}"),         //
            ("app", "\u{430}\u{440}\u{440}"), // a whole word of them
            ("one", "\u{3BF}ne"),             // Greek omicron
            ("bin/a", "bin/\u{FF41}"),        // full width
            ("file", "\u{FB01}le"),           // a ligature
            ("caf\u{E9}", "cafe\u{301}"),     // composed and not
            ("\u{C9}tat", "\u{E9}tat"),       // case beyond ASCII
            ("stra\u{DF}e", "STRASSE"),       //
            ("\u{3A3}\u{3A3}", "\u{3C3}\u{3C2}"),
            ("a/b", "a\u{2215}b"),            // no slash
            ("\u{2764}", "\u{2764}\u{FE0F}"), // two drawings of one sign
            ("\u{430}", "\u{251}"),           // neither is ASCII
        ] {
            assert_eq!(clash(&[one, "other", other]).as_deref(), Some(one), "{one} {other}");
            assert_eq!(clash(&[other, "other", one]).as_deref(), Some(other), "{other} {one}");
        }
    }

    #[test]
    fn names_that_differ_to_the_eye_are_let_through() {
        for names in [
            &["0", "O", "o", "l", "1", "I", "rn", "m"][..],
            &["Readme", "README"],
            &["\u{430}", "b", "\u{432}"],
            &["stra\u{DF}e", "strase", "\u{65E5}\u{672C}", "\u{65E5}\u{6728}"],
            &["caf\u{E9}", "cafe", "\u{1F600}", "\u{1F601}"],
            // Those of ASCII are not held against each other later either.
            &["0", "\u{E9}", "O"],
        ] {
            assert_eq!(clash(names), None, "{names:?}");
        }
    }

    #[test]
    fn what_is_not_drawn_is_hidden_and_spelled_out() {
        let hidden_ones = "\0\u{7F}\u{85}\u{AD}\u{200B}\u{200D}\u{200E}\u{202E}\u{2028}\u{2066}\
                           \u{2060}\u{FEFF}\u{E0041}\u{3164}\u{34F}";
        assert!(hidden_ones.chars().all(hidden));
        assert!(!"a /\u{E9}\u{430}\u{65E5}\u{1F600}\u{FE0F}\u{301}".chars().any(hidden));
        assert_eq!(spelled("a\u{202E}gnp.exe"), "a\\u{202e}gnp.exe");
    }
}
