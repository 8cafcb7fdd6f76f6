//! Any bytes as the index of a packed file, and as a packed block of the layout that it describes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_core::packed::{Layout, Table, unpack};
use smidgen_host::packed::Index;
use smidgen_host::weights::Stamp;
use std::hint::black_box;

/// Bytes of the rows that a block is unpacked to, at most.
const MOST_BYTES: usize = 1 << 14;

fuzz_target!(|data: &[u8]| {
    index(data);
    block(data);
});

/// The index of a file of any size, of which the last bytes are these.
fn index(data: &[u8]) {
    let Some((numbers, bytes)) = data.split_first_chunk::<12>() else { return };
    let at = u64::from(u32::from_le_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]));
    let plain_bytes = u64::from_le_bytes([4, 5, 6, 7, 8, 9, 10, 11].map(|i| numbers[i]));
    let stamp = Stamp { len: at + bytes.len() as u64, modified: None, identity: None };
    let Ok(index) = Index::parse(bytes, (at, plain_bytes), stamp) else { return };
    let n = index.plain_bytes();
    black_box((index.memory_bytes(), index.packed_tensor(n / 2), index.packed_bytes(n / 3, n / 3)));
}

/// A block of a type with a coded plane between two that are not.
fn block(data: &[u8]) {
    let Some((&[block_bytes, first, n_coded, row_bytes, n_rows, peak], packed)) = data.split_first_chunk() else {
        return;
    };
    let block_bytes = usize::from(block_bytes) + 1;
    let first = usize::from(first) % (block_bytes + 1);
    let n_coded = usize::from(n_coded) % (block_bytes + 1 - first);
    // All frequencies are seven but one, which takes what is missing.
    let mut frequencies = [7; 256];
    frequencies[usize::from(peak)] += 2048 - 7 * 256;
    let table = Table::new(&frequencies).expect("frequencies of this sum");
    let planes = [(first, None), (n_coded, Some(0)), (block_bytes - first - n_coded, None)];
    let row_bytes = usize::from(row_bytes);
    let n_bytes = (row_bytes * usize::from(n_rows)).min(MOST_BYTES);
    let (mut scratch, mut out) = (vec![0; n_bytes], vec![0; n_bytes]);
    let layout = Layout { block_bytes, row_bytes, planes: &planes, tables: &[table] };
    // With a right checksum too, or nothing behind it would ever be reached.
    let summed = [&smidgen_core::packed::checksum(packed).to_le_bytes()[..], packed].concat();
    black_box(
        (unpack(&layout, packed, &mut scratch, &mut out), unpack(&layout, &summed, &mut scratch, &mut out)).0.is_ok(),
    );
}
