//! Sums worked by hand, files put together by hand, and files that are not in order.

use super::*;
use smidgen_core::engine::Observer;
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;

/// Rows of small numbers whose products are exact, (n_tokens, columns).
fn rows(n_tokens: usize, columns: usize) -> Vec<f32> {
    (0..n_tokens * columns).map(|i| ((i * 7919 + 13) % 17) as f32 - 8.0).collect()
}

fn naive(x: &[f32], columns: usize) -> Vec<f32> {
    let n_tokens = (x.len() / columns) as f64;
    let mut square = vec![0.0; columns * columns];
    for row in x.chunks_exact(columns) {
        for i in 0..columns {
            for j in 0..columns {
                square[i * columns + j] += f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    square.iter().map(|sum| (sum / n_tokens) as f32).collect()
}

/// Three tokens of two columns, worked by hand.
#[test]
fn sums_are_those_worked_by_hand() {
    let inputs = [(Input::Output, 2)];
    let mut collector = Collector::new(&inputs, true, Isa::SCALAR, &Single);
    collector.observe(Input::Output, &[1.0, 2.0, 3.0, -4.0], 2);
    collector.observe(Input::Down(0), &[9.0], 1);
    collector.observe(Input::Output, &[0.5, 6.0], 2);
    let sums = &collector.sums()[0];
    assert_eq!((sums.n_tokens(), sums.squares()), (3, &[10.25, 56.0][..]));
    assert_eq!(sums.upper(), [10.25, 2.0 - 12.0 + 3.0, 56.0]);
    assert_eq!(sums.importance(), [10.25f32 / 3.0, 56.0 / 3.0]);
    assert_eq!(sums.moment().unwrap().square(), [10.25f32 / 3.0, -7.0 / 3.0, -7.0 / 3.0, 56.0 / 3.0]);
}

#[test]
fn moments_do_not_depend_on_batches_or_kernels() {
    for columns in [1, 2, 7, 16, 33, 75] {
        for n_tokens in [1, 3, 4, 9, 32] {
            let x = rows(n_tokens, columns);
            let want = naive(&x, columns);
            for isa in Isa::available() {
                for batch in [1, 3, 4, 5, 32] {
                    let mut collector = Collector::new(&[(Input::Down(3), columns)], true, isa, &Single);
                    for x in x.chunks(batch * columns) {
                        collector.observe(Input::Down(3), x, columns);
                    }
                    let got = collector.of(Input::Down(3)).unwrap().moment().unwrap();
                    assert_eq!(got.square(), want, "{columns} columns, {n_tokens} tokens, {} by {batch}", isa.name());
                }
            }
        }
    }
}

#[test]
fn sums_go_on_from_where_they_were_kept() {
    let (x, inputs) = (rows(10, 3), [(Input::Output, 3)]);
    let mut whole = Collector::new(&inputs, true, Isa::SCALAR, &Single);
    whole.observe(Input::Output, &x, 3);
    let mut half = Collector::new(&inputs, true, Isa::SCALAR, &Single);
    half.observe(Input::Output, &x[..12], 3);
    let kept = half.sums()[0].clone();
    let mut resumed = Collector::new(&inputs, true, Isa::SCALAR, &Single);
    let mut values = kept.squares().iter().chain(kept.upper()).copied();
    resumed.sums_mut()[0].restore(kept.n_tokens(), || values.next().ok_or("too few")).unwrap();
    resumed.observe(Input::Output, &x[12..], 3);
    assert_eq!(resumed.sums()[0].upper(), whole.sums()[0].upper());
    assert_eq!(resumed.sums()[0].n_tokens(), 10);
    assert_eq!(resumed.sums_mut()[0].restore(1, || values.next().ok_or("too few")), Err("too few"));
}

#[test]
fn every_matrix_has_the_input_that_it_reads() {
    for (tensor, input) in [
        ("blk.0.attn_q.weight", Some(Input::Attention(0))),
        ("blk.12.attn_v.weight", Some(Input::Attention(12))),
        ("blk.1.attn_qkv.weight", Some(Input::Attention(1))),
        ("blk.1.attn_output.weight", Some(Input::AttentionOutput(1))),
        ("blk.1.ffn_gate.weight", Some(Input::FeedForward(1))),
        ("blk.1.ffn_up.weight", Some(Input::FeedForward(1))),
        ("blk.1.ffn_down.weight", Some(Input::Down(1))),
        ("token_embd.weight", Some(Input::Output)),
        ("blk.1.ffn_norm.weight", None),
        ("blk.1.attn_q.bias", None),
        ("blk.x.attn_q.weight", None),
    ] {
        assert_eq!(input_of(tensor), input, "{tensor}");
    }
}

/// A GGUF file of F32 tensors, with these keys of strings.
fn gguf(keys: &[(&str, &str)], tensors: &[(&str, &[u64], Vec<f32>)]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    let string = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        string(&mut file, key);
        file.extend(8u32.to_le_bytes());
        string(&mut file, value);
    }
    let mut offset = 0u64;
    for (name, dims, values) in tensors {
        string(&mut file, name);
        file.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset = (offset + 4 * values.len() as u64).next_multiple_of(32);
    }
    for (_, _, values) in tensors {
        file.resize(file.len().next_multiple_of(32), 0);
        values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    }
    file
}

const IMATRIX: &[(&str, &str)] = &[("general.type", "imatrix")];

#[test]
fn a_file_of_llama_cpp_is_read() {
    let name = "blk.0.attn_k.weight";
    let (sums, counts) = (format!("{name}.in_sum2"), format!("{name}.counts"));
    let file = gguf(
        IMATRIX,
        &[
            (&sums, &[3, 1], vec![2.0, 0.0, 8.0]),
            (&counts, &[1, 1], vec![4.0]),
            ("blk.0.attn_k.weight.in_sum", &[3, 1], vec![-1.0; 3]),
            ("blk.0.attn_input.in_moment", &[6], vec![2.0, 4.0, -4.0, 0.0, 1.0, 8.0]),
            ("blk.0.ffn_up.weight.in_sum2", &[2, 2], vec![1.0, 2.0, 3.0, 4.0]),
            ("blk.0.ffn_up.weight.counts", &[1, 2], vec![2.0, 0.0]),
        ],
    );
    let calibration = Calibration::read(&file).unwrap();
    assert_eq!(calibration.importance(name).unwrap(), [0.5, 0.0, 2.0]);
    assert_eq!(calibration.importance("blk.0.ffn_up.weight").unwrap(), [0.5, 1.0, 1.0, 1.0]);
    let moment = calibration.moment(name).unwrap();
    assert_eq!(moment.square(), [0.5, 1.0, -1.0, 1.0, 0.0, 0.25, -1.0, 0.25, 2.0]);
    assert!(calibration.moment("blk.0.ffn_up.weight").is_none() && calibration.importance("output.weight").is_none());
}

#[test]
fn the_older_form_is_read() {
    let mut file = 1i32.to_le_bytes().to_vec();
    let name = b"blk.0.ffn_down.weight";
    file.extend((name.len() as i32).to_le_bytes());
    file.extend(name);
    file.extend(5i32.to_le_bytes());
    file.extend(2i32.to_le_bytes());
    file.extend([10.0f32, 2.5].iter().flat_map(|x| x.to_le_bytes()));
    let without_end = file.clone();
    file.extend(7i32.to_le_bytes());
    file.extend(5i32.to_le_bytes());
    file.extend(b"a.txt");
    for bytes in [&without_end, &file] {
        let calibration = Calibration::read(bytes).unwrap();
        assert_eq!(calibration.importance("blk.0.ffn_down.weight").unwrap(), [2.0, 0.5]);
    }
    let calibration = Calibration::read(&file).unwrap();
    assert_eq!((calibration.n_chunks, &calibration.datasets[..]), (7, &["a.txt".to_owned()][..]));
    // Whatever is cut off or changed is an error or a smaller imatrix, never more.
    for len in 0..without_end.len() {
        assert!(Calibration::read(&file[..len]).is_err(), "{len}");
    }
    for at in 0..without_end.len() {
        let mut broken = without_end.clone();
        broken[at] ^= 0xff;
        let _ = Calibration::read(&broken);
    }
}

#[test]
fn what_is_no_imatrix_is_refused() {
    let name = "blk.0.attn_k.weight";
    let (sums, counts) = (format!("{name}.in_sum2"), format!("{name}.counts"));
    let read = |keys: &[(&str, &str)], tensors: &[(&str, &[u64], Vec<f32>)]| {
        Calibration::read(&gguf(keys, tensors)).map(|_| ()).unwrap_err()
    };
    let good = (sums.as_str(), &[2, 1][..], vec![1.0, 2.0]);
    let count = (counts.as_str(), &[1, 1][..], vec![2.0]);
    assert_eq!(read(&[], &[good.clone(), count.clone()]), Error::NotImatrix);
    assert_eq!(read(IMATRIX, &[]), Error::Empty);
    assert_eq!(read(IMATRIX, std::slice::from_ref(&good)), Error::Missing(counts.clone()));
    let nan = (sums.as_str(), &[2, 1][..], vec![1.0, -2.0]);
    assert_eq!(read(IMATRIX, &[nan, count.clone()]), Error::Value(name.into(), 1, -2.0));
    let odd = (counts.as_str(), &[3][..], vec![2.0; 3]);
    assert_eq!(read(IMATRIX, &[good.clone(), odd]), Error::Shape(name.into()));
    let moment = ("blk.0.attn_input.in_moment", &[4][..], vec![1.0; 4]);
    assert_eq!(read(IMATRIX, &[good, count, moment]), Error::Shape("blk.0.attn_input.in_moment".into()));
    assert!(matches!(Calibration::read(b"GGUF").unwrap_err(), Error::Gguf(_)));
    assert!(matches!(Calibration::read(b"no such thing").unwrap_err(), Error::NotLegacy(..)));
}

#[test]
fn the_imatrix_of_another_model_is_refused() {
    let imatrix = gguf(
        IMATRIX,
        &[("blk.0.attn_k.weight.in_sum2", &[2, 1], vec![1.0, 2.0]), ("blk.0.attn_k.weight.counts", &[1, 1], vec![2.0])],
    );
    let calibration = Calibration::read(&imatrix).unwrap();
    let model = |name: &str, columns: u64| gguf(&[], &[(name, &[columns, 1], vec![0.0; columns as usize])]);
    let check = |model: Vec<u8>| calibration.check(&Gguf::parse(&model, model.len() as u64).unwrap());
    assert_eq!(check(model("blk.0.attn_k.weight", 2)), Ok(()));
    assert_eq!(check(model("blk.0.attn_k.weight", 3)), Err(Error::Columns("blk.0.attn_k.weight".into(), 2, 3)));
    assert_eq!(check(model("blk.0.attn_q.weight", 2)), Err(Error::Foreign("blk.0.attn_k.weight".into())));
}
