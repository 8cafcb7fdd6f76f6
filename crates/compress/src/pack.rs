//! Entropy coding of weights as they are: which bytes of a type's blocks are worth it, and the packed blocks themselves.
//!
//! Core's `packed` is the other half and says what the coding is. Frequencies belong to a type and not to a tensor: over four
//! models, tables of its own make a matrix 0.1 to 1 % smaller, and cost as much where it is small (ADR 0086).

use smidgen_core::packed::{
    CHECKSUM_BYTES, FREQUENCY_BITS, FREQUENCY_SUM, Frequencies, LANES, Plane, STATE_LOW, checksum,
};

/// What a coded plane must save: its table in the file, and the memory that it takes while it is read.
const PLANE_BYTES: f64 = 2048.0;
/// And this share of its bytes, because reading it takes time.
const PLANE_SHARE: f64 = 0.02;

/// How often each byte occurs at each position of the blocks of a type.
#[derive(Clone, Debug)]
pub struct Survey {
    counts: Vec<[u64; 256]>,
}

impl Survey {
    /// Nothing yet, of a type with blocks of `block_bytes`.
    pub fn new(block_bytes: usize) -> Self {
        Survey { counts: vec![[0; 256]; block_bytes] }
    }

    /// Counts the bytes of `rows`, whole rows of `row_bytes`.
    ///
    /// # Panics
    /// When a row has no bytes.
    pub fn add(&mut self, rows: &[u8], row_bytes: usize) {
        let block_bytes = self.counts.len();
        for block in rows.chunks(row_bytes).flat_map(|row| row.chunks(block_bytes)) {
            for (counts, &byte) in self.counts.iter_mut().zip(block) {
                counts[usize::from(byte)] += 1;
            }
        }
    }

    /// The planes that make these bytes smallest: of all ways to cut a block in runs, each coded or not, the best, by dynamic
    /// programming over their ends.
    pub fn planes(&self) -> Vec<Plane> {
        let n = self.counts.len();
        // For each end the bytes of the best way to get there, where its last run begins, and whether that is coded.
        let mut best = vec![(f64::INFINITY, 0, false); n + 1];
        best[0].0 = 0.0;
        for start in 0..n {
            let mut sums = [0; 256];
            let before = best[start].0;
            for (counts, best) in self.counts[start..].iter().zip(&mut best[start + 1..]) {
                add(&mut sums, counts);
                let raw = sums.iter().sum::<u64>() as f64;
                let coded = ideal_bytes(&sums) + PLANE_BYTES + PLANE_SHARE * raw;
                // Something for each run, so that runs are no shorter than they need to be.
                let bytes = before + raw.min(coded) + 1.0;
                if bytes < best.0 {
                    *best = (bytes, start, coded < raw);
                }
            }
        }
        let mut planes = Vec::new();
        let mut end = n;
        while end > 0 {
            let (_, start, is_coded) = best[end];
            let mut sums = [0; 256];
            self.counts[start..end].iter().for_each(|counts| add(&mut sums, counts));
            planes.push(Plane { n_bytes: end - start, frequencies: is_coded.then(|| frequencies(&sums)) });
            end = start;
        }
        planes.reverse();
        planes
    }

    /// Bytes that these take in `planes`, without the states of their blocks.
    ///
    /// # Panics
    /// When a byte occurs that the planes' survey has not seen.
    pub fn packed_bytes(&self, planes: &[Plane]) -> f64 {
        let mut rest = &self.counts[..];
        let mut bytes = 0.0;
        for plane in planes {
            let (counts, after) = rest.split_at(plane.n_bytes);
            let mut sums = [0; 256];
            counts.iter().for_each(|counts| add(&mut sums, counts));
            bytes += match &plane.frequencies {
                None => sums.iter().sum::<u64>() as f64,
                Some(frequencies) => coded_bytes(&sums, frequencies),
            };
            rest = after;
        }
        bytes
    }
}

fn add(sums: &mut [u64; 256], counts: &[u64; 256]) {
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

/// Bytes that a perfect coder needs for bytes with these counts.
fn ideal_bytes(counts: &[u64; 256]) -> f64 {
    let n = counts.iter().sum::<u64>() as f64;
    let bits = |&count: &u64| if count == 0 { 0.0 } else { count as f64 * (n / count as f64).log2() };
    counts.iter().map(bits).sum::<f64>() / 8.0
}

/// Bytes that a coder with these `frequencies` needs.
fn coded_bytes(counts: &[u64; 256], frequencies: &Frequencies) -> f64 {
    let pairs = counts.iter().zip(frequencies).filter(|&(&count, _)| count > 0);
    let bits = |(&count, &frequency): (&u64, &u16)| {
        assert!(frequency > 0, "every byte was surveyed");
        count as f64 * (f64::from(FREQUENCY_SUM) / f64::from(frequency)).log2()
    };
    pairs.map(bits).sum::<f64>() / 8.0
}

/// Frequencies near `counts`, none zero where a byte occurs: rounded down, then up where a further one saves most.
fn frequencies(counts: &[u64; 256]) -> Frequencies {
    let n = counts.iter().sum::<u64>().max(1);
    let mut frequencies = [0; 256];
    for (frequency, &count) in frequencies.iter_mut().zip(counts) {
        let share = (u128::from(count) * u128::from(FREQUENCY_SUM) / u128::from(n)) as u16;
        *frequency = if count == 0 { 0 } else { share.max(1) };
    }
    // What one more, or one less, changes: the logarithm's slope times the count.
    let gain = |value: usize, from: u16, to: u16| counts[value] as f64 * (f64::from(to) / f64::from(from)).ln();
    let sum = |frequencies: &Frequencies| frequencies.iter().map(|&f| u32::from(f)).sum::<u32>();
    while sum(&frequencies) < FREQUENCY_SUM {
        let gains = (0..256).filter(|&v| frequencies[v] > 0).map(|v| (v, gain(v, frequencies[v], frequencies[v] + 1)));
        // An empty plane has no byte that occurs; any will do.
        let value = gains.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(value, _)| value);
        frequencies[value] += 1;
    }
    while sum(&frequencies) > FREQUENCY_SUM {
        let losses = (0..256).filter(|&v| frequencies[v] > 1).map(|v| (v, gain(v, frequencies[v] - 1, frequencies[v])));
        // There are fewer values than the sum, so one is above one.
        let value = losses.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(value, _)| value);
        frequencies[value] -= 1;
    }
    frequencies
}

/// Packs `rows`, whole rows of `row_bytes` of a type with blocks of `block_bytes`, as core's `unpack` reads them.
///
/// # Panics
/// When a byte occurs that the planes' survey has not seen, or the planes are not those of a block.
pub fn pack(planes: &[Plane], (block_bytes, row_bytes): (usize, usize), rows: &[u8]) -> Vec<u8> {
    assert_eq!(planes.iter().map(|plane| plane.n_bytes).sum::<usize>(), block_bytes, "the planes of a block");
    let mut packed = Vec::with_capacity(rows.len() + CHECKSUM_BYTES);
    packed.extend([0; CHECKSUM_BYTES]);
    let mut coded = Vec::new();
    let mut first = 0;
    for plane in planes {
        let positions = first..first + plane.n_bytes;
        let blocks = rows.chunks(row_bytes).flat_map(|row| row.chunks(block_bytes));
        let bytes = blocks.flat_map(|block| &block[positions.start.min(block.len())..positions.end.min(block.len())]);
        match &plane.frequencies {
            None => packed.extend(bytes),
            Some(frequencies) => coded.push((frequencies, bytes.copied().collect::<Vec<u8>>())),
        }
        first = positions.end;
    }
    if !coded.is_empty() {
        encode(&coded, &mut packed);
    }
    let sum = checksum(&packed[CHECKSUM_BYTES..]);
    packed[..CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
    packed
}

/// Appends the coded planes: the states, then the words in the order in which the decoder takes them. The encoder goes from the
/// last byte to the first.
fn encode(planes: &[(&Frequencies, Vec<u8>)], packed: &mut Vec<u8>) {
    let mut states = [STATE_LOW; LANES];
    let mut words = Vec::new();
    for (frequencies, bytes) in planes.iter().rev() {
        let mut start = 0;
        let starts = frequencies.map(|frequency| {
            start += u32::from(frequency);
            start - u32::from(frequency)
        });
        for (index, &byte) in bytes.iter().enumerate().rev() {
            let state = &mut states[index % LANES];
            let frequency = u32::from(frequencies[usize::from(byte)]);
            assert!(frequency > 0, "every byte was surveyed");
            // From this on the state would grow beyond 32 bits.
            if u64::from(*state) >= u64::from(frequency) << (32 - FREQUENCY_BITS) {
                words.push(*state as u16);
                *state >>= 16;
            }
            *state = ((*state / frequency) << FREQUENCY_BITS) + *state % frequency + starts[usize::from(byte)];
        }
    }
    packed.extend(states.iter().flat_map(|state| state.to_le_bytes()));
    packed.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_core::packed::{Broken, Layout, STATES_BYTES, Table, unpack};

    /// A generator of the sort that Marsaglia described; good enough to spoil bytes with.
    struct Random(u64);

    impl Random {
        fn next(&mut self, below: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % below
        }
    }

    /// Blocks with a first byte of few values, a second of any, and others that are mostly small.
    fn rows(random: &mut Random, block_bytes: usize, row_bytes: usize, n_rows: usize) -> Vec<u8> {
        let byte = |index: usize| match index % row_bytes % block_bytes {
            0 => random.next(3) as u8,
            1 => random.next(256) as u8,
            _ => (random.next(16) * random.next(16)) as u8,
        };
        (0..row_bytes * n_rows).map(byte).collect()
    }

    fn unpacked(planes: &[Plane], shape: (usize, usize), packed: &[u8], n_bytes: usize) -> Result<Vec<u8>, Broken> {
        let tables: Result<Vec<Table>, Broken> =
            planes.iter().filter_map(|p| p.frequencies.as_ref()).map(Table::new).collect();
        let mut n = 0..;
        let number = |plane: &Plane| (plane.n_bytes, plane.frequencies.and_then(|_| n.next()));
        let planes: Vec<(usize, Option<usize>)> = planes.iter().map(number).collect();
        let layout = Layout { block_bytes: shape.0, row_bytes: shape.1, planes: &planes, tables: &tables? };
        let mut out = vec![0xee; n_bytes];
        unpack(&layout, packed, &mut vec![0; n_bytes], &mut out).map(|()| out)
    }

    #[test]
    fn what_is_packed_comes_back() {
        let mut random = Random(7);
        for (block_bytes, row_bytes) in [(1, 1), (2, 64), (4, 4), (18, 108), (34, 68), (65, 173), (33, 20)] {
            for n_rows in [1, 2, 7, 400] {
                let rows = rows(&mut random, block_bytes, row_bytes, n_rows);
                let mut survey = Survey::new(block_bytes);
                survey.add(&rows, row_bytes);
                let mut coded = frequencies_of_all(&survey);
                // The best planes, and all bytes coded with one table, so that short rows are coded too.
                for planes in [survey.planes(), std::mem::take(&mut coded)] {
                    let packed = pack(&planes, (block_bytes, row_bytes), &rows);
                    let found = unpacked(&planes, (block_bytes, row_bytes), &packed, rows.len());
                    assert!(found == Ok(rows.clone()), "{block_bytes} {row_bytes} {n_rows}");
                    // A word for each state is the most that is lost.
                    let most = survey.packed_bytes(&planes) + (CHECKSUM_BYTES + STATES_BYTES + 2 * LANES) as f64;
                    assert!(packed.len() as f64 <= most + 1.0, "{} of {most}", packed.len());
                }
            }
        }
    }

    fn frequencies_of_all(survey: &Survey) -> Vec<Plane> {
        let mut sums = [0; 256];
        survey.counts.iter().for_each(|counts| add(&mut sums, counts));
        vec![Plane { n_bytes: survey.counts.len(), frequencies: Some(frequencies(&sums)) }]
    }

    #[test]
    fn planes_are_what_differs_in_meaning() {
        let mut random = Random(11);
        let rows = rows(&mut random, 34, 34 * 8, 2000);
        let mut survey = Survey::new(34);
        survey.add(&rows, 34 * 8);
        let planes: Vec<_> = survey.planes().iter().map(|plane| (plane.n_bytes, plane.frequencies.is_some())).collect();
        assert_eq!(planes, [(1, true), (1, false), (32, true)]);
        assert!(survey.packed_bytes(&survey.planes()) < rows.len() as f64 * 0.85);
        let noise: Vec<u8> = (0..80_000).map(|_| random.next(256) as u8).collect();
        let mut survey = Survey::new(2);
        survey.add(&noise, 8);
        assert_eq!(survey.planes(), [Plane { n_bytes: 2, frequencies: None }]);
    }

    #[test]
    fn what_is_spoilt_is_seen_and_harms_nobody() {
        let mut random = Random(13);
        let rows = rows(&mut random, 18, 54, 300);
        let mut survey = Survey::new(18);
        survey.add(&rows, 54);
        let planes = frequencies_of_all(&survey);
        let packed = pack(&planes, (18, 54), &rows);
        for _ in 0..500 {
            let mut spoilt = packed.clone();
            let at = random.next(spoilt.len());
            spoilt[at] ^= 1 << random.next(8);
            assert!(unpacked(&planes, (18, 54), &spoilt, rows.len()) == Err(Broken), "byte {at}");
            // With a sum that is right again the rows are others, or broken; nothing else happens.
            let sum = checksum(&spoilt[CHECKSUM_BYTES..]).to_le_bytes();
            spoilt[..CHECKSUM_BYTES].copy_from_slice(&sum);
            let found = unpacked(&planes, (18, 54), &spoilt, rows.len());
            assert!(at < CHECKSUM_BYTES || found != Ok(rows.clone()), "byte {at}");
        }
        for len in [0, 1, STATES_BYTES, packed.len() - 2, packed.len() - 1] {
            assert_eq!(unpacked(&planes, (18, 54), &packed[..len], rows.len()), Err(Broken), "{len} bytes");
        }
        let longer = [&packed[..], &[0, 0]].concat();
        assert_eq!(unpacked(&planes, (18, 54), &longer, rows.len()), Err(Broken));
        for n_bytes in [0, 54, rows.len() - 54, rows.len() + 54, rows.len() - 1] {
            assert_eq!(unpacked(&planes, (18, 54), &packed, n_bytes), Err(Broken), "{n_bytes} bytes");
        }
    }

    #[test]
    fn frequencies_have_their_sum_whatever_is_counted() {
        let mut one = [0; 256];
        one[7] = 3;
        let mut skewed = [1; 256];
        skewed[0] = u64::MAX >> 16;
        for counts in [[0; 256], one, skewed, [u64::MAX >> 16; 256]] {
            let found = frequencies(&counts);
            assert_eq!(found.iter().map(|&f| u32::from(f)).sum::<u32>(), FREQUENCY_SUM);
            assert!(counts.iter().zip(&found).all(|(&count, &frequency)| count == 0 || frequency > 0));
        }
    }
}
