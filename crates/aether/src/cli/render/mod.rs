//! Messages as people read them: plain text, no width of a screen; colour is put
//! on afterwards, by `paint`.
//! Pure, so that the tests compare whole texts.

pub mod artifact;
pub mod change;
pub mod cluster;
pub mod config;
pub mod env;
pub mod event;
pub mod explain;
pub mod gate;
pub mod health;
pub mod history;
pub mod paint;
pub mod plan;
pub mod slice;
pub mod update;
pub mod voters;

use aether_core::duration::Millis;
use comfy_table::{ContentArrangement, Table, presets};

/// A table without borders, columns two spaces apart.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
    }
    for at in 0..header.len() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, 2));
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Lines of a name and a value, the values in one column. A value of several
/// lines goes on in that column; fields without one are left out.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut lines = Vec::new();
    for (name, value) in fields {
        let mut name = *name;
        for line in value.lines() {
            lines.push(format!("{name:width$}  {}", plain(line)));
            name = "";
        }
    }
    lines.join("\n")
}

/// A text of somebody else's without control characters, which could move the
/// cursor or hide the rest of the line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A span as people say it: `350ms`, `4m 10s`.
pub fn span(ms: u64) -> String {
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    Millis(ms - ms % 1_000).to_string()
}

/// A share of millionths in per cent, such as `24.98 %`.
pub fn percent_of_ppm(ppm: u32) -> String {
    percent(f64::from(ppm) / 1_000_000.0)
}

/// A share between 0 and 1 in per cent, with at most two decimals.
pub fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    let short = text.trim_end_matches('0').trim_end_matches('.');
    format!("{short} %")
}

/// A text, or a dash where there is none.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_and_line_up() {
        let rows = vec![
            vec!["a".into(), "long value\nwith a line end".into()],
            vec!["longer".into(), "b".into()],
        ];
        let text = table(&["ONE", "TWO"], rows);
        assert_eq!(text, "ONE     TWO\na       long value with a line end\nlonger  b");
        assert_eq!(table(&["ONE", "TWO"], vec![]), "ONE  TWO");
    }

    #[test]
    fn fields_line_up_and_skip_what_is_absent() {
        let text = fields(&[("a", "1".into()), ("longer", "2\n3".into()), ("none", String::new())]);
        assert_eq!(text, "a       1\nlonger  2\n        3");
    }

    #[test]
    fn escape_sequences_of_others_are_defused() {
        assert_eq!(plain("a\u{1b}[2Jb"), "a [2Jb");
    }

    #[test]
    fn spans_and_shares_are_short() {
        assert_eq!(span(350), "350ms");
        assert_eq!(span(250_999), "4m 10s");
        assert_eq!(percent_of_ppm(249_812), "24.98 %");
        assert_eq!(percent(0.01), "1 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.0), "0 %");
    }
}
