//! Writes raw rows in a type, for `tools/llama_cpp_encoders.py` to compare.
//!
//! Usage: quantize_rows TYPE COLUMNS ROWS OUT [IMPORTANCE]. ROWS and IMPORTANCE are files of little-endian floats, OUT is
//! the blocks.

use smidgen_compress::encode::quantize_rows;
use smidgen_core::quant::Type;
use std::error::Error;

fn floats(path: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, n_columns, rows, out, importance @ ..] = arguments.as_slice() else {
        return Err("usage: quantize_rows TYPE COLUMNS ROWS OUT [IMPORTANCE]".into());
    };
    let kind = Type::from_name(kind).ok_or("no such type")?;
    let n_columns = n_columns.parse()?;
    let rows = floats(rows)?;
    let importance = importance.first().map(|path| floats(path)).transpose()?;
    let mut blocks = vec![0; kind.row_bytes(rows.len() as u64).ok_or("not whole blocks")? as usize];
    quantize_rows(kind, &rows, n_columns, importance.as_deref(), &mut blocks)?;
    Ok(std::fs::write(out, blocks)?)
}
