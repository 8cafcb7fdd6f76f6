//! Figures in the documents come from committed records.
//!
//! A table of figures stands between `<!-- figures: bench/record/FILE -->` and `<!-- end of figures -->`, and every
//! number in it is a number of that record, rounded to the places the document shows.

use super::{Finding, Source};

const BEGIN: &str = "<!-- figures: ";
const END: &str = "<!-- end of figures -->";
/// What follows a number when it is a measured one. A whole number of bytes is not: that is the size of a machine.
const UNITS: &[&str] = &["ms", "s", "us", "ns", "seconds", "minutes", "tok/s", "tokens/s", "%", "bpw", "GB/s"];
const BYTES: &[&str] = &["B", "KB", "MB", "GB", "KiB", "MiB", "GiB", "bytes"];

/// Figures in the tables of documents that no record holds, and the README's measured figures outside of such tables.
pub(super) fn check(files: &[Source]) -> Vec<Finding> {
    let documents = files.iter().filter(|file| file.path.ends_with(".md") && !file.is_in("bench/record/"));
    documents.flat_map(|document| check_document(document, files)).collect()
}

fn check_document(document: &Source, files: &[Source]) -> Vec<Finding> {
    let is_readme = document.path == "README.md";
    let mut findings = Vec::new();
    let mut record: Option<Vec<f64>> = None;
    for (line_number, line) in document.lines() {
        if let Some(path) = line.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(" -->")) {
            let file = files.iter().find(|file| file.path == path && file.is_in("bench/record/"));
            if file.is_none() {
                findings.push(document.finding(line_number, format!("there is no record {path}")));
            }
            record = Some(file.map_or(Vec::new(), |file| numbers(&file.text).into_iter().map(|(_, n, _)| n).collect()));
        } else if line.trim() == END {
            record = None;
        } else if let (Some(record), true) = (&record, line.starts_with('|')) {
            for (text, number, _) in numbers(line).iter().filter(|(text, number, _)| !holds(record, text, *number)) {
                findings.push(document.finding(line_number, format!("{text} ({number}) is no figure of the record")));
            }
        } else if let (true, Some((text, _, unit))) =
            (is_readme, numbers(line).iter().find(|&figure| is_measured(figure)))
        {
            let message = format!("the figure {text} {unit} stands outside the tables that records fill");
            findings.push(document.finding(line_number, message));
        }
    }
    findings
}

/// Whether a number and the word after it look like the outcome of a measurement.
fn is_measured((text, _, unit): &(String, f64, String)) -> bool {
    UNITS.contains(&unit.as_str()) || (text.contains('.') && BYTES.contains(&unit.as_str()))
}

/// Whether `record` holds a number that rounds to `number` at the places of `text`.
fn holds(record: &[f64], text: &str, number: f64) -> bool {
    let places = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    record.iter().any(|value| format!("{value:.places$}").parse() == Ok(number))
}

/// The numbers of a text that are words of their own: as written, their value, and the word after each.
fn numbers(text: &str) -> Vec<(String, f64, String)> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '/' | '%' | '-');
    let words: Vec<&str> = text.split(|c| !is_part(c)).filter(|word| !word.is_empty()).collect();
    let mut numbers = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let word = word.trim_end_matches('.');
        let digits = word.trim_end_matches('%');
        if let Some(value) = digits.parse::<f64>().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit())) {
            let next = if digits.len() < word.len() { "%" } else { words.get(index + 1).copied().unwrap_or("") };
            numbers.push((digits.to_string(), value, next.trim_end_matches('.').to_string()));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(readme: &str) -> Vec<String> {
        messages_of("README.md", readme)
    }

    fn messages_of(path: &str, text: &str) -> Vec<String> {
        let file = |path: &str, text: &str| Source::new(path, text).unwrap_or_else(|finding| panic!("{finding}"));
        let record = "{\"tokens_per_s\": 1234.56, \"peak_mib\": 2.96}";
        let files = [file(path, text), file("bench/record/a.json", record)];
        check(&files).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn tables_of_every_document_are_checked_and_words_of_the_readme_alone() {
        let text = "It takes 4.7 MiB.\n<!-- figures: bench/record/a.json -->\n| x | 2.97 |\n<!-- end of figures -->\n";
        let expected = ["docs/a.md:3: 2.97 (2.97) is no figure of the record"];
        assert_eq!(messages_of("docs/a.md", text), expected);
    }

    #[test]
    fn a_figure_of_the_record_passes_rounded_or_whole() {
        let table = "| model | tok/s |\n|---|---|\n| stories260K Q8_0 | 1235 | 3.0 |\n| x | 1234.56 | 2.96 |";
        let text = format!("<!-- figures: bench/record/a.json -->\n{table}\n<!-- end of figures -->\n");
        assert_eq!(messages(&text), [""; 0]);
    }

    #[test]
    fn an_invented_figure_is_refused() {
        let text = "<!-- figures: bench/record/a.json -->\n| x | 1236 |\n<!-- end of figures -->\n";
        assert_eq!(messages(text), ["README.md:2: 1236 (1236) is no figure of the record"]);
        let text = "<!-- figures: bench/record/b.json -->\n<!-- end of figures -->\n";
        assert_eq!(messages(text), ["README.md:1: there is no record bench/record/b.json"]);
        let expected = "README.md:1: the figure 900 tok/s stands outside the tables that records fill";
        assert_eq!(messages("It runs at 900 tok/s."), [expected]);
        assert_eq!(messages("It is 12% smaller.").len(), 1);
        assert_eq!(messages("It peaks at 2.9 MiB.").len(), 1);
        assert!(messages("Version 3 of Q8_0, issue 12, on a 32 MB computer").is_empty());
    }
}
