//! Texts that parsers like least, and valid ones with a few changes.

use proptest::prelude::*;
use proptest::sample::select;

use crate::bytes::mutated;

/// Texts that have broken parsers before. Among them: ways out of a directory,
/// what ends a text in C, numbers at and beyond their edges, letters that look
/// like others, and directions of writing.
pub const NASTY: &[&str] = &[
    "",
    " ",
    ".",
    "..",
    "../x",
    "a/../../b",
    "/etc/passwd",
    "\0",
    "a\0b",
    "\n",
    "\r\n\r\n",
    "\t",
    "\u{1b}[2J",
    "\u{202e}gnp.exe",
    "\u{feff}a",
    "ｏrg.example",
    "οrg.example:a",
    "е",
    "İ",
    "ß",
    "\u{301}",
    "👩‍👩‍👧",
    "%2e%2e%2f",
    "%00",
    "%",
    "%zz",
    "0",
    "-0",
    "-1",
    "+1",
    "007",
    "0x10",
    "1e309",
    "1e-400",
    "NaN",
    "Infinity",
    "255",
    "256",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "0:0",
    "1:2:3",
    "::1",
    "[::1]:0",
    "127.0.0.1:70000",
    "0.0.0.0:1",
    "1 day",
    "1us",
    "99999999999999999999d",
    "null",
    "true",
    "{}",
    "[]",
    "\"",
    "'",
    "\\",
    "${PORT}",
    "${",
    "$$",
    "*",
    "?",
    "--",
    "-h",
    "@",
    ":",
    "current",
    "default",
    "__proto__",
];

/// Any text: arbitrary letters, a nasty one, several of them, or a long one.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<String>(),
        2 => "[ -~]{0,40}",
        3 => select(NASTY).prop_map(str::to_owned),
        1 => (select(NASTY), select(NASTY)).prop_map(|(a, b)| format!("{a}{b}")),
        1 => (select(NASTY), 2usize..70).prop_map(|(text, times)| text.repeat(times)),
        1 => (select(&["a", "0", "é", "/", "[", "a.", "a:"][..]), 1usize..4_096)
            .prop_map(|(text, times)| text.repeat(times)),
    ]
}

/// One of some valid texts with a few changes, or a nasty text put into it.
pub fn near(valid: &[&str]) -> impl Strategy<Value = String> {
    let bytes = valid.iter().map(|text| text.as_bytes().to_vec()).collect();
    let owned: Vec<String> = valid.iter().map(|text| (*text).to_owned()).collect();
    prop_oneof![
        3 => mutated(bytes).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => (select(owned), select(NASTY), any::<prop::sample::Index>()).prop_map(
            |(mut valid, nasty, at)| {
                let places: Vec<usize> =
                    valid.char_indices().map(|(at, _)| at).chain([valid.len()]).collect();
                valid.insert_str(places[at.index(places.len())], nasty);
                valid
            }
        ),
    ]
}
