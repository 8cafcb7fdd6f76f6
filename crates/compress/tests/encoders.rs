//! Rows written in every type: no worse than ggml writes them, and read back as what rounding said they would be.
//!
//! `testdata/encoders` is made by `tools/encoder_goldens.py`.

use smidgen_compress::encode::{EncodeError, can_write, encoder, needs_calibration, quantize_rows};
use smidgen_core::quant::{Parts, TYPES, Type};
use std::path::PathBuf;

const N_COLUMNS: usize = 512;

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/encoders").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn floats(name: &str) -> Vec<f32> {
    data(name).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The types that are written with care.
fn encoded_types() -> impl Iterator<Item = Type> {
    TYPES.iter().map(|row| row.0).filter(|&kind| encoder(kind).is_some())
}

/// What is read from `rows` written in `kind`.
fn written(kind: Type, rows: &[f32], n_columns: usize, importance: Option<&[f32]>) -> Vec<f32> {
    let mut blocks = vec![0; kind.row_bytes(rows.len() as u64).unwrap() as usize];
    quantize_rows(kind, rows, n_columns, importance, &mut blocks).unwrap_or_else(|error| panic!("{error}"));
    let mut values = vec![0.0; rows.len()];
    kind.dequantize(&blocks, &mut values).unwrap();
    values
}

fn weighted_error(rows: &[f32], values: &[f32], importance: &[f32]) -> f64 {
    let terms = rows.iter().zip(values).zip(importance.iter().cycle());
    terms.map(|((row, value), importance)| f64::from(row - value).powi(2) * f64::from(*importance)).sum()
}

/// ggml's errors are for the same rows and importances.
#[test]
fn errors_are_no_larger_than_those_of_ggml() {
    let (rows, importance) = (floats("rows.f32"), floats("importance.f32"));
    let errors = String::from_utf8(data("errors.tsv")).unwrap();
    let errors: Vec<(&str, f64)> =
        errors.lines().map(|line| line.split_once('\t').unwrap()).map(|(name, e)| (name, e.parse().unwrap())).collect();
    for kind in encoded_types().filter(|kind| !kind.is_any_width()) {
        let (_, theirs) = errors.iter().find(|(name, _)| *name == kind.name()).expect("an error of ggml's");
        let ours = weighted_error(&rows, &written(kind, &rows, N_COLUMNS, Some(&importance)), &importance);
        println!("{}: {:.4}", kind.name(), ours / theirs);
        assert!(ours <= *theirs, "{}: {} of ggml's error", kind.name(), ours / theirs);
    }
}

/// The `gguf` package writes the same bytes.
#[test]
fn without_importances_types_of_32_weights_are_ggmls() {
    let rows = floats("rows.f32");
    for kind in [Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0] {
        let want = data(&format!("{}.bin", kind.name()));
        let mut got = vec![0; want.len()];
        quantize_rows(kind, &rows, N_COLUMNS, None, &mut got).unwrap();
        assert!(got == want, "{}", kind.name());
    }
}

/// The `gguf` package writes the same bytes for weights of three values.
#[test]
fn weights_of_three_values_are_ggmls() {
    let rows = floats("ternary.f32");
    for kind in [Type::TQ1_0, Type::TQ2_0] {
        let want = data(&format!("{}.bin", kind.name()));
        let mut got = vec![0; want.len()];
        quantize_rows(kind, &rows, 256, None, &mut got).unwrap();
        assert!(got == want, "{}", kind.name());
    }
}

#[test]
fn a_block_is_read_as_rounding_said() {
    let (rows, importance) = (floats("rows.f32"), floats("importance.f32"));
    for kind in encoded_types() {
        let (encoder, len, name) = (encoder(kind).unwrap(), kind.block_len(), kind.name());
        let mut parts = Parts::ZERO;
        encoder.fit(&rows[..len], &importance[..len], &mut parts);
        // Error feedback asks for other weights than those that the scales were fitted to.
        let mut said: Vec<f32> = rows[..len].iter().map(|weight| 1.3 * weight + 0.01).collect();
        for at in (0..len).step_by(encoder.group()) {
            let range = at..at + encoder.group();
            encoder.round(&mut parts, at, &mut said[range.clone()], &importance[range]);
        }
        let mut block = vec![0; kind.block_bytes()];
        kind.pack(&parts, &mut block).unwrap();
        let mut read = vec![0.0; len];
        kind.dequantize(&block, &mut read).unwrap();
        for (i, (read, said)) in read.iter().zip(&said).enumerate() {
            assert!(read == said, "{name}, weight {i}: {read}, not {said}");
        }
    }
}

#[test]
fn rows_that_are_hard_to_scale() {
    let ones = [1.0; 256];
    let mut spike = [0.0; 256];
    spike[77] = -3.0;
    for kind in encoded_types() {
        let check = |rows: &[f32; 256], importance: &[f32; 256], largest_error: f64| {
            let values = written(kind, rows, 256, Some(importance));
            assert!(values.iter().all(|value| value.is_finite()), "{}: {values:?}", kind.name());
            let error = rows.iter().zip(&values).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max);
            assert!(error <= largest_error, "{}, {} and so on: {error}", kind.name(), rows[0]);
        };
        check(&[0.0; 256], &ones, 0.0);
        check(&[0.0; 256], &[0.0; 256], 0.0);
        // A path through a trellis leads past levels that are far from a constant.
        let off = if kind.is_any_width() { 0.8 } else { 0.35 };
        check(&[0.7; 256], &ones, off);
        check(&[-0.7; 256], &[0.0; 256], off);
        check(&spike, &ones, 3.0);
        // Too small for a half float, and as large as one can be.
        check(&[1e-30; 256], &ones, 1e-29);
        if !kind.is_any_width() {
            check(&[65504.0; 256], &[f32::MAX; 256], 32752.0);
        }
    }
}

#[test]
fn what_is_refused() {
    let mut out = [0; 2000];
    let mut rows = [0.5f32; 512];
    let mut refused = |kind: Type, rows: &[f32], n_columns: usize, importance: Option<&[f32]>| {
        let n_bytes = kind.row_bytes(rows.len() as u64).unwrap() as usize;
        quantize_rows(kind, rows, n_columns, importance, &mut out[..n_bytes]).unwrap_err()
    };
    assert_eq!(refused(Type::Q4_K, &rows, 128, None), EncodeError::Columns(Type::Q4_K, 128));
    assert_eq!(refused(Type::Q4_0, &rows, 0, None), EncodeError::Columns(Type::Q4_0, 0));
    assert_eq!(refused(Type::Q8_K, &rows, 256, None), EncodeError::Unsupported(Type::Q8_K));
    assert_eq!(refused(Type::Q2_K, &rows, 256, None), EncodeError::NeedsCalibration(Type::Q2_K));
    let mut importance = [1.0; 256];
    for wrong in [-1.0, f32::NAN, f32::INFINITY] {
        importance[9] = wrong;
        assert_eq!(refused(Type::Q4_K, &rows, 256, Some(&importance)), EncodeError::Importance(9));
    }
    for (wrong, said) in [(f32::NEG_INFINITY, "-inf"), (f32::NAN, "NaN"), (1e6, "1e6")] {
        rows[300] = wrong;
        for (kind, n_columns, place) in [(Type::Q4_K, 256, "row 1, column 44"), (Type::F16, 2, "row 150, column 0")] {
            let message = refused(kind, &rows, n_columns, None).to_string();
            assert!(message.contains(place) && message.contains(said), "{message}");
        }
    }
    assert_eq!(quantize_rows(Type::BF16, &[1e6; 2], 2, None, &mut [0; 4]), Ok(()));
}

#[test]
fn what_needs_calibration_can_be_written_with_it() {
    let refused: Vec<&str> = TYPES.iter().filter(|row| needs_calibration(row.0)).map(|row| row.2).collect();
    assert_eq!(refused, ["Q2_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ3_S", "IQ2_S", "IQ1_M", "Q2_W"]);
    let readable = TYPES.iter().filter(|row| row.0.is_supported());
    assert!(readable.map(|row| row.0).all(can_write), "what is read is written");
    assert!(!can_write(Type::I8));
}
