//! How numbers are shown to people, and the objects shown to programs.

use crate::failure::Failure;
use serde::Serialize;
use std::io::Write;

/// A count of bytes as people read it: `512 B`, `1.50 KiB`, `2.00 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

/// A count with its thousands apart: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes of a file as text for a terminal: what is not UTF-8 or not printable is escaped, and what is longer than
/// `limit` characters is cut.
pub fn printable(text: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == limit {
            out.push_str("...");
            break;
        }
        match letter.is_control() {
            true => out.extend(letter.escape_default()),
            false => out.push(letter),
        }
    }
    out
}

/// Rows of text whose columns line up.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The rows as lines; a column that `right` names (the first is 0) is aligned at its right.
    pub fn render(&self, right: &[usize]) -> String {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let letters = |row: &Vec<String>, column| row.get(column).map_or(0, |cell: &String| cell.chars().count());
        let width = |column| self.rows.iter().map(|row| letters(row, column)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line.push_str(&match right.contains(&column) {
                    true => format!("  {cell:>width$}"),
                    false => format!("  {cell:<width$}"),
                });
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Writes `object` as one line of JSON.
///
/// # Errors
/// Those of `out`.
pub fn json(out: &mut dyn Write, object: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(object).map_err(|error| Failure::Failed(format!("--json: {error}")))?;
    text.push('\n');
    write(out, text.as_bytes())
}

/// Writes `text` and sees it off.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut dyn Write, text: &[u8]) -> Result<(), Failure> {
    out.write_all(text).and_then(|()| out.flush()).map_err(Failure::writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_largest_unit_that_leaves_a_whole_number() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(3 << 20), "3.00 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.00 TiB");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            ["999", "1,000", "1,234,567"],
            [count(999), count(1000), count(1_234_567)].each_ref().map(|s| &s[..])
        );
    }

    #[test]
    fn a_file_cannot_write_control_codes() {
        assert_eq!(printable(b"a\x1b[2Jb\xff", 99), "a\\u{1b}[2Jb\u{fffd}");
        assert_eq!(printable("äöü".as_bytes(), 2), "äö...");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::default();
        table.row(["a".into(), "10".into()]);
        table.row(["bcd".into(), "9".into()]);
        assert_eq!(table.render(&[1]), "  a    10\n  bcd   9\n");
    }
}
