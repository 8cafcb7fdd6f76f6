//! Stop strings in a stream: text is let through only when it cannot be the beginning of one.

/// Watches a stream of text for the first of several strings, which may begin in one piece and end in another.
#[derive(Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    /// Text that has not been let through because a stop string may begin in it.
    held: Vec<u8>,
}

impl StopStrings {
    /// Watches for `strings`, none of them empty. After this nothing allocates as long as no piece is longer than
    /// `max_piece_bytes`.
    pub fn new(strings: &[String], max_piece_bytes: usize) -> Self {
        let longest = strings.iter().map(String::len).max().unwrap_or(0);
        Self { strings: strings.to_vec(), held: Vec::with_capacity(longest + max_piece_bytes) }
    }

    /// Takes the next piece of text and gives `emit` what may be shown; true when a stop string has appeared, of which
    /// nothing is ever shown.
    pub fn push<E>(&mut self, piece: &[u8], mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<bool, E> {
        self.held.extend_from_slice(piece);
        let found = self.strings.iter().filter_map(|stop| find(&self.held, stop.as_bytes())).min();
        if let Some(at) = found {
            emit(&self.held[..at])?;
            self.held.clear();
            return Ok(true);
        }
        let free = self.held.len() - self.beginning_bytes();
        if free > 0 {
            emit(&self.held[..free])?;
            self.held.drain(..free);
        }
        Ok(false)
    }

    /// Gives `emit` what was held back, at the end of the stream.
    pub fn finish<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if !self.held.is_empty() {
            emit(&self.held)?;
            self.held.clear();
        }
        Ok(())
    }

    /// The length of the longest end of the held text that begins a stop string.
    fn beginning_bytes(&self) -> usize {
        let held = &self.held;
        let begins = |stop: &String, n: &usize| held.ends_with(&stop.as_bytes()[..*n]);
        let longest = |stop: &String| (1..stop.len().min(held.len() + 1)).rev().find(|n| begins(stop, n));
        self.strings.iter().filter_map(longest).max().unwrap_or(0)
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// Feeds `text` in pieces of `n` bytes; what was shown, and whether it stopped.
    fn feed(stops: &[&str], text: &str, n: usize) -> (String, bool) {
        let strings: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut watch = StopStrings::new(&strings, n);
        let mut shown = Vec::new();
        let mut emit = |piece: &[u8]| -> Result<(), Infallible> {
            shown.extend_from_slice(piece);
            Ok(())
        };
        let mut stopped = false;
        for piece in text.as_bytes().chunks(n) {
            stopped = watch.push(piece, &mut emit).unwrap();
            if stopped {
                break;
            }
        }
        if !stopped {
            watch.finish(&mut emit).unwrap();
        }
        (String::from_utf8(shown).unwrap(), stopped)
    }

    #[test]
    fn a_stop_string_is_never_shown_however_the_text_is_cut() {
        for n in 1..12 {
            assert_eq!(feed(&["User:"], "Hello. User: hi", n), ("Hello. ".into(), true));
            assert_eq!(feed(&["aab"], "aaaab", n), ("aa".into(), true));
            assert_eq!(feed(&["ö", "ß"], "schön", n), ("sch".into(), true));
        }
    }

    #[test]
    fn the_earliest_of_several_wins_in_one_piece() {
        assert_eq!(feed(&["world", "lo"], "hello world", 11), ("hel".into(), true));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_shown_at_the_end() {
        for n in 1..8 {
            assert_eq!(feed(&["END."], "the EN", n), ("the EN".into(), false));
            assert_eq!(feed(&[], "anything", n), ("anything".into(), false));
        }
    }

    #[test]
    fn text_is_held_no_longer_than_needed() {
        let mut watch = StopStrings::new(&["ab".to_owned()], 8);
        let mut shown = Vec::new();
        let mut emit = |piece: &[u8]| -> Result<(), Infallible> {
            shown.extend_from_slice(piece);
            Ok(())
        };
        watch.push(b"xxa", &mut emit).unwrap();
        watch.push(b"c", &mut emit).unwrap();
        watch.push(b"a", &mut emit).unwrap();
        assert_eq!(shown, b"xxac");
    }
}
