//! What `quantize` says: one JSON object, or some lines and tables.

use super::forecast::{Memory, OfType, Sizes};
use super::search::Found;
use crate::report::{self, Table, count};
use serde::Serialize;
use std::collections::BTreeMap;

/// `smidgen.quantize/1`, described in `docs/json.md`.
#[derive(Serialize)]
pub struct Report<'a> {
    /// The name and version of this object.
    pub schema: &'static str,
    /// What was read.
    pub model: &'a str,
    /// What was written.
    pub output: Option<String>,
    /// The recipe, or `search`.
    pub recipe: &'static str,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Bytes of the file.
    pub bytes: u64,
    /// How many tensors.
    pub n_tensors: usize,
    /// How many weights.
    pub n_weights: u64,
    /// Of the tensors alone.
    pub bits_per_weight: f64,
    /// Of the whole file.
    pub file_bits_per_weight: f64,
    /// Sums by type.
    pub types: &'a BTreeMap<&'static str, OfType>,
    /// The file that llama.cpp's own choice for rows that do not fit would make; null for a search.
    pub llama_bytes: Option<u64>,
    /// What running it takes; null when it does not run here.
    pub memory: Option<Memory>,
    /// Whether the source was quantized already.
    pub requantized: bool,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The most that was resident, where the system says.
    pub peak_bytes: Option<u64>,
    /// How the types were found; null for a recipe.
    pub search: Option<Found>,
    /// Every tensor.
    pub tensors: Vec<TensorRow>,
}

/// One tensor of the report.
#[derive(Serialize)]
pub struct TensorRow {
    /// Its name.
    pub name: String,
    /// The type it had.
    pub from: &'static str,
    /// The type it has.
    pub to: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// What rounding did to it; null in a dry run.
    pub error: Option<f64>,
}

impl Report<'_> {
    /// The same for people; `verbose` shows every tensor.
    pub fn for_people(&self, sizes: &Sizes, verbose: bool) -> String {
        let mut out = String::new();
        if verbose {
            out += &self.tensor_table();
        }
        if let Some(found) = &self.search {
            out += &search_table(found);
        }
        if verbose || self.dry_run {
            out += &type_table(sizes);
        }
        let verb = if self.dry_run { "would write" } else { "wrote" };
        out += &format!(
            "smidgen: {verb} {} ({}): {}, {:.3} bits per weight, {:.3} with everything in the file; {} weights in {} tensors ({})\n",
            self.output.as_deref().unwrap_or("a file"),
            self.recipe,
            report::bytes(self.bytes),
            self.bits_per_weight,
            self.file_bits_per_weight,
            count(self.n_weights),
            self.n_tensors,
            sizes.counts(),
        );
        if let Some(llama_bytes) = self.llama_bytes.filter(|&bytes| bytes != self.bytes) {
            let llama = report::bytes(llama_bytes);
            out += &format!("smidgen: llama.cpp's own choice for rows that do not fit would make {llama}\n");
        }
        if let Some(memory) = self.memory {
            let bytes = report::bytes(memory.bytes);
            out += &format!("smidgen: running it takes {bytes} with -c {}\n", memory.context_tokens);
        }
        for note in &self.notes {
            out += &format!("smidgen: {note}\n");
        }
        out
    }

    fn tensor_table(&self) -> String {
        let mut table = Table::default();
        table.row(["tensor", "from", "to", "bytes", "error"].map(str::to_owned));
        for tensor in &self.tensors {
            let error = tensor.error.map_or(String::new(), |error| format!("{error:.4}"));
            let name = report::printable(tensor.name.as_bytes(), 64);
            table.row([name, tensor.from.into(), tensor.to.into(), count(tensor.bytes), error]);
        }
        table.render(&[3, 4])
    }
}

fn type_table(sizes: &Sizes) -> String {
    let mut table = Table::default();
    table.row(["type", "tensors", "weights", "bytes", "bits"].map(str::to_owned));
    for (name, sum) in &sizes.types {
        let bits = sum.bytes as f64 * 8.0 / sum.n_weights.max(1) as f64;
        let [n_tensors, n_weights, bytes] = [count(sum.n_tensors as u64), count(sum.n_weights), count(sum.bytes)];
        table.row([(*name).to_owned(), n_tensors, n_weights, bytes, format!("{bits:.3}")]);
    }
    table.render(&[1, 2, 3, 4])
}

/// What was chosen for each part, and why it was kept.
fn search_table(found: &Found) -> String {
    let mut table = Table::default();
    table.row(["part", "type", "bytes", "KL alone"].map(str::to_owned));
    for part in &found.parts {
        let name = report::printable(part.name.as_bytes(), 64);
        table.row([name, part.kind.into(), count(part.bytes), format!("{:.6}", part.kl)]);
    }
    let mut out = table.render(&[2, 3]);
    out += &format!("smidgen: KL divergence from the original {:.6} on text that the search has not seen", found.kl);
    out += &match (&found.uniform, found.took_uniform) {
        (Some(uniform), true) => {
            format!("; {} everywhere is better than any mixture found, and was taken\n", uniform.kind)
        }
        (Some(uniform), false) => {
            let bytes = report::bytes(uniform.bytes);
            format!(
                "; {} everywhere, the best single type of that size ({bytes}), has {:.6}\n",
                uniform.kind, uniform.kl
            )
        }
        (None, _) => "; no single type fits that size\n".to_owned(),
    };
    if found.from_cache {
        out += "smidgen: nothing had to be measured but the result: the rest was in the cache\n";
    }
    out
}
