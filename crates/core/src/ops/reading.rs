//! How fast weights can come: reading them and doing next to nothing else, which no product beats.

use super::matmul::Crew;
use crate::simd::{Kernel, Simd, TILE, each_row};
use crate::workers::Workers;

/// Bytes of a task: enough that handing it out costs nothing beside it.
const TASK_BYTES: usize = 1 << 16;
/// Vectors that are read side by side.
const SIDE_BY_SIDE: usize = 8;

/// Reads every byte of `bytes`, shared out among the crew, and throws away what it makes of them; a rest of some hundred bytes is left.
pub fn read_all(crew: Crew<'_>, bytes: &[u8]) {
    let workers: &dyn Workers = crew.workers;
    let n_bytes = if workers.n_workers() == 1 { bytes.len().max(1) } else { TASK_BYTES };
    workers.run(bytes.len().div_ceil(n_bytes), &|_, task| {
        let end = bytes.len().min((task + 1) * n_bytes);
        core::hint::black_box(crew.isa.run(Read { bytes: &bytes[task * n_bytes..end] }));
    });
}

struct Read<'a> {
    bytes: &'a [u8],
}

impl Kernel for Read<'_> {
    type Output = [u32; TILE];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [u32; TILE] {
        let mut all = [s.all(0); SIDE_BY_SIDE];
        for group in self.bytes.as_chunks::<4>().0.chunks_exact(SIDE_BY_SIDE * TILE) {
            for (i, all) in all.iter_mut().enumerate() {
                let words = &group[i * TILE..][..TILE];
                *all = s.xor(*all, s.lanes(&each_row!(r => u32::from_le_bytes(words[r]))));
            }
        }
        let [mut sum, others @ ..] = all;
        for other in others {
            sum = s.xor(sum, other);
        }
        let mut out = [0; TILE];
        s.put(sum, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn every_whole_vector_is_read() {
        let group = SIDE_BY_SIDE * TILE * 4;
        for at in [0, 4 * TILE, group, 2 * group - 4] {
            let mut bytes = vec![0; 2 * group + 3];
            bytes[at] = 5;
            for isa in Isa::available() {
                let words = isa.run(Read { bytes: &bytes });
                let sum = words.iter().fold(0, |sum, word| sum ^ word);
                assert_eq!(sum, 5, "byte {at} on {}", isa.name());
            }
        }
    }
}
