//! The merging that all byte-pair encodings share: of all adjacent pairs, the best is joined first, the leftmost of equals.
//!
//! The symbols of a word are a doubly linked list over its bytes, so that a symbol is named by the offset where it
//! begins and ends where the next begins. Pairs wait in a binary heap. A merge changes the pairs beside it; their old
//! entries stay in the heap and are recognised when they come up, because the pair that begins at that symbol has
//! another key by then. So a word of n bytes costs O(n log n). After Sennrich et al. 2016 (arXiv 1508.07909); the
//! heap and the list as in SentencePiece's `bpe_model.cc`.

/// A pair that does not make a token.
pub(super) const NO_PAIR: u32 = u32::MAX;
/// No neighbour.
const NONE: u32 = u32::MAX;

/// Scratch bytes for a word of `word_bytes`: three links per byte, and two heap entries, for every merge removes one
/// entry and adds two at most.
pub(super) fn scratch_bytes(word_bytes: usize) -> usize {
    word_bytes.saturating_mul(3 * 4 + 2 * 8)
}

/// The symbols of one word.
pub(super) struct Symbols<'s> {
    /// (word bytes) the symbol before; `NONE` at the start
    previous: &'s mut [[u8; 4]],
    /// (word bytes) where the next symbol begins, which is where this one ends
    next: &'s mut [[u8; 4]],
    /// (word bytes) the key of the pair that begins here
    keys: &'s mut [[u8; 4]],
    heap: Heap<'s>,
}

impl<'s> Symbols<'s> {
    /// One symbol for each stretch of a word that `symbol_bytes` measures, given where it begins.
    ///
    /// The word has `word_bytes` bytes and `scratch` at least [`scratch_bytes`] of that; `None` when not.
    pub(super) fn new(word_bytes: usize, scratch: &'s mut [u8], symbol_bytes: impl Fn(usize) -> usize) -> Option<Self> {
        let (links, rest) = scratch.split_at_mut_checked(word_bytes.checked_mul(12)?)?;
        let (links, _) = links.as_chunks_mut::<4>();
        let (previous, links) = links.split_at_mut(word_bytes);
        let (next, keys) = links.split_at_mut(word_bytes);
        let (entries, _) = rest.as_chunks_mut::<8>();
        let entries = entries.get_mut(..word_bytes.checked_mul(2)?)?;
        let symbols = Self { previous, next, keys, heap: Heap { entries, len: 0 } };
        let mut before = NONE;
        let mut at = 0;
        while at < word_bytes {
            let end = (at + symbol_bytes(at).max(1)).min(word_bytes);
            symbols.previous[at] = before.to_ne_bytes();
            symbols.next[at] = (end as u32).to_ne_bytes();
            symbols.keys[at] = NO_PAIR.to_ne_bytes();
            before = at as u32;
            at = end;
        }
        Some(symbols)
    }

    /// Joins pairs until none is left that makes a token. `key_of(start, middle, end)` is the rank of joining the
    /// symbols `start..middle` and `middle..end`, the smallest first, or [`NO_PAIR`].
    pub(super) fn merge(&mut self, key_of: impl Fn(usize, usize, usize) -> u32) {
        let mut at = 0;
        while at < self.next.len() {
            self.offer(at, &key_of);
            at = self.end_of(at);
        }
        while let Some((key, at)) = self.heap.pop() {
            if u32::from_ne_bytes(self.keys[at]) != key {
                continue;
            }
            let middle = self.end_of(at);
            let end = self.end_of(middle);
            self.keys[middle] = NO_PAIR.to_ne_bytes();
            self.next[at] = (end as u32).to_ne_bytes();
            if let Some(previous) = self.previous.get_mut(end) {
                *previous = (at as u32).to_ne_bytes();
            }
            self.offer(at, &key_of);
            let before = u32::from_ne_bytes(self.previous[at]);
            if before != NONE {
                self.offer(before as usize, &key_of);
            }
        }
    }

    /// Where the symbol that begins at `start` ends; the end of the word ends there itself.
    pub(super) fn end_of(&self, start: usize) -> usize {
        self.next.get(start).map_or(start, |&next| u32::from_ne_bytes(next) as usize)
    }

    /// Puts the pair that begins at `start` into the heap, when it is one.
    fn offer(&mut self, start: usize, key_of: &impl Fn(usize, usize, usize) -> u32) {
        let middle = self.end_of(start);
        let end = self.end_of(middle);
        let key = if end > middle { key_of(start, middle, end) } else { NO_PAIR };
        self.keys[start] = key.to_ne_bytes();
        if key != NO_PAIR {
            self.heap.push(key, start);
        }
    }
}

/// A binary heap, the smallest key on top, and of equal keys the leftmost.
struct Heap<'s> {
    entries: &'s mut [[u8; 8]],
    len: usize,
}

impl Heap<'_> {
    fn get(&self, index: usize) -> u64 {
        u64::from_ne_bytes(self.entries[index])
    }

    /// Adds an entry; the bound in [`scratch_bytes`] leaves room for it.
    fn push(&mut self, key: u32, start: usize) {
        let entry = u64::from(key) << 32 | start as u64;
        let mut index = self.len;
        if index >= self.entries.len() {
            return;
        }
        self.len += 1;
        while index > 0 {
            let parent = (index - 1) / 2;
            let above = self.get(parent);
            if above <= entry {
                break;
            }
            self.entries[index] = above.to_ne_bytes();
            index = parent;
        }
        self.entries[index] = entry.to_ne_bytes();
    }

    /// Takes the smallest entry: its key and where its pair begins.
    fn pop(&mut self) -> Option<(u32, usize)> {
        self.len = self.len.checked_sub(1)?;
        let top = self.get(0);
        let last = self.get(self.len);
        let mut index = 0;
        loop {
            let mut child = 2 * index + 1;
            if child >= self.len {
                break;
            }
            if child + 1 < self.len && self.get(child + 1) < self.get(child) {
                child += 1;
            }
            let below = self.get(child);
            if last <= below {
                break;
            }
            self.entries[index] = below.to_ne_bytes();
            index = child;
        }
        self.entries[index] = last.to_ne_bytes();
        Some(((top >> 32) as u32, top as u32 as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joins the first best pair again and again.
    fn naive(word: &[u8], key_of: &impl Fn(&[u8]) -> u32) -> Vec<Vec<u8>> {
        let mut symbols: Vec<Vec<u8>> = word.iter().map(|&byte| vec![byte]).collect();
        loop {
            let keys = symbols.windows(2).map(|pair| key_of(&pair.concat()));
            match keys.enumerate().min_by_key(|&(index, key)| (key, index)) {
                Some((index, key)) if key != NO_PAIR => {
                    let right = symbols.remove(index + 1);
                    symbols[index].extend(right);
                }
                _ => return symbols,
            }
        }
    }

    #[test]
    fn agrees_with_the_naive_way() {
        let mut seed = 1u32;
        let mut random = |n: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % n
        };
        for _ in 0..2000 {
            let salt = random(1000);
            let word: Vec<u8> = (0..random(24)).map(|_| b'a' + random(3) as u8).collect();
            // Short strings are pairs, with few and so often equal keys, which grow and shrink as the symbols do.
            let key_of = |text: &[u8]| {
                let sum = text.iter().fold(salt, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
                if text.len() > 5 || sum % 3 == 0 { NO_PAIR } else { sum % 7 }
            };
            let mut scratch = vec![0; scratch_bytes(word.len())];
            let mut symbols = Symbols::new(word.len(), &mut scratch, |_| 1).expect("room");
            symbols.merge(|start, _, end| key_of(&word[start..end]));
            let mut got = Vec::new();
            let mut at = 0;
            while at < word.len() {
                got.push(word[at..symbols.end_of(at)].to_vec());
                at = symbols.end_of(at);
            }
            assert_eq!(got, naive(&word, &key_of));
        }
    }
}
