//! `quantize --size`: the types with which a file of that size does the least damage, found by measuring.
//!
//! Each type is tried in each part of the model alone, on the original in f32 with that one part rounded; the damages are added up
//! (see `smidgen_compress::search`). What the sum promises is then measured on text that nothing has seen, beside the same
//! model in the best single type of that size, and the better of the two is kept.

use super::choice::listed;
use super::known::Known;
use super::measured::{Measured, OfType, identity};
use super::rounding::Rounding;
use super::text::{BATCH_TOKENS, Bench, Text};
use crate::failure::Failure;
use crate::hash::Fnv1a;
use crate::load::host_failure;
use crate::report;
use smidgen_compress::encode::can_write;
use smidgen_compress::recipe::Tensor;
use smidgen_compress::search::gauge::Gauge;
use smidgen_compress::search::knapsack::{self, Offer};
use smidgen_compress::search::parts::{Part, parts};
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::{TYPES, Type};
use smidgen_host::emit::{Emission, FileType, Means, Target};
use smidgen_host::encode::{Encode, Plain};
use smidgen_host::image::Pages;
use smidgen_host::{Import, Progress};

/// What a search works with.
pub struct Search<'a> {
    /// The model.
    pub import: &'a mut Import,
    /// Its tensors.
    pub tensors: &'a [Tensor],
    /// What runs it.
    pub bench: Bench<'a>,
    /// What it is measured on.
    pub text: &'a Text,
    /// What is known of its inputs, and the name of that knowledge.
    pub known: (&'a Known<'a>, String),
    /// The types to choose from.
    pub among: Vec<Type>,
    /// What the file becomes, apart from its types.
    pub target: Target,
    /// Tensor data of the file begins on multiples of this many bytes.
    pub alignment_bytes: u64,
    /// Told how far the work has come.
    pub progress: &'a dyn Progress,
}

/// A part and what was chosen for it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PartRow {
    /// The matrices.
    pub name: String,
    /// Their type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Their bytes.
    pub bytes: u64,
    /// The divergence when only they have it.
    pub kl: f64,
}

/// The best that one type for every part would do.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Uniform {
    /// That type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The file.
    pub bytes: u64,
    /// Its divergence on text that nothing has seen.
    pub kl: f64,
}

/// What was found, for a report.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Found {
    /// Bytes that the file may take.
    pub target_bytes: u64,
    /// Mean KL divergence of the file's predictions from the original's, on text that nothing has seen.
    pub kl: f64,
    /// What the damages of the parts add up to, on the text that they were measured on.
    pub predicted_kl: f64,
    /// The best single type of that size, if any has it.
    pub uniform: Option<Uniform>,
    /// Whether that was better, and was taken.
    pub took_uniform: bool,
    /// Whether everything had been measured before.
    pub from_cache: bool,
    /// What each part got.
    pub parts: Vec<PartRow>,
}

/// Types chosen, and the file made of them.
pub struct Choice {
    /// How it was found.
    pub found: Found,
    /// What the file is.
    pub emission: Emission,
    /// Its bytes.
    pub pages: Pages,
    /// What rounding did to each tensor.
    pub errors: Vec<f64>,
}

/// The types to choose from unless somebody says otherwise: those for rows of any width.
pub fn any_width_types() -> Vec<Type> {
    TYPES.iter().map(|row| row.0).filter(|kind| kind.is_any_width() && can_write(*kind)).collect()
}

impl Search<'_> {
    /// The file of at most `target_bytes` with the least damage.
    ///
    /// # Errors
    /// A size that no choice reaches, a part that none of the types fits, or a model that does not run.
    pub fn run(&mut self, target_bytes: u64) -> Result<Choice, Failure> {
        let parts = parts(self.tensors);
        let smallest_bytes = self.smallest_file()?.file_bytes();
        if smallest_bytes > target_bytes {
            return Err(Failure::Budget(format!(
                "{}: {} is not enough: with the smallest of these types everywhere the file takes {}",
                self.bench.name,
                report::bytes(target_bytes),
                report::bytes(smallest_bytes)
            )));
        }
        let fixed_bytes = self.fixed_bytes(&parts)?;
        let (measured, gauge, from_cache) = self.measure(&parts)?;
        let offers: Vec<Vec<(Type, Offer)>> =
            parts.iter().enumerate().map(|(index, part)| self.offers(index, part, &measured)).collect();
        let plain: Vec<Vec<Offer>> = offers.iter().map(|offers| offers.iter().map(|offer| offer.1).collect()).collect();
        let Some(choice) = knapsack::choose(&plain, target_bytes - fixed_bytes) else {
            return Err(Failure::Failed(format!(
                "{}: no choice fits, although the smallest types do",
                self.bench.name
            )));
        };
        let chosen: Vec<(Type, Offer)> = offers.iter().zip(&choice).map(|(offers, &at)| offers[at]).collect();
        let types: Vec<Type> = chosen.iter().map(|offer| offer.0).collect();
        let predicted_kl = chosen.iter().map(|offer| offer.1.damage).sum();
        let mut best = self.make(&parts, &types)?;
        let mut kl = self.kl_of(&gauge, &best.1)?;
        let uniform = self.best_uniform(&parts, &measured, target_bytes)?;
        let mut types = types;
        let took_uniform = uniform.as_ref().is_some_and(|(_, uniform)| uniform.kl < kl);
        if let Some((kind, uniform)) = uniform.as_ref().filter(|_| took_uniform) {
            types = vec![*kind; parts.len()];
            best = self.make(&parts, &types)?;
            kl = uniform.kl;
        }
        let row = |(index, (part, &kind)): (usize, (&Part, &Type))| {
            let offer = offers[index].iter().find(|offer| offer.0 == kind).map_or(0.0, |offer| offer.1.damage);
            PartRow { name: part.name.clone(), kind: kind.name(), bytes: self.part_bytes(part, kind), kl: offer }
        };
        let rows = parts.iter().zip(&types).enumerate().map(row).collect();
        let uniform = uniform.map(|(_, uniform)| uniform);
        let found = Found { target_bytes, kl, predicted_kl, uniform, took_uniform, from_cache, parts: rows };
        let (emission, pages, errors) = best;
        Ok(Choice { found, emission, pages, errors })
    }

    fn fits(&self, part: &Part, kind: Type) -> bool {
        part.tensors.iter().all(|&index| kind.row_bytes(self.tensors[index].n_columns).is_some())
    }

    fn check_types(&self, parts: &[Part]) -> Result<(), Failure> {
        let homeless = parts.iter().filter(|part| !self.among.iter().any(|&kind| self.fits(part, kind)));
        let names: Vec<String> = homeless.map(|part| part.name.clone()).collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(Failure::Input(format!(
                "{}: none of the types given with --among fits the rows of {}",
                self.bench.name,
                listed(&names)
            ))),
        }
    }

    /// Bytes of a part as `kind`, with the padding that follows each tensor.
    fn part_bytes(&self, part: &Part, kind: Type) -> u64 {
        let of_tensor = |&index: &usize| {
            let tensor = &self.tensors[index];
            (kind.row_bytes(tensor.n_columns).unwrap_or(0) * tensor.n_rows).next_multiple_of(self.alignment_bytes)
        };
        part.tensors.iter().map(of_tensor).sum()
    }

    /// Bytes that the file takes whatever is chosen: its header, and what keeps its type.
    fn fixed_bytes(&self, parts: &[Part]) -> Result<u64, Failure> {
        let in_f32 = self.emission(parts, |_| Some(Type::F32))?.file_bytes();
        Ok(in_f32 - parts.iter().map(|part| self.part_bytes(part, Type::F32)).sum::<u64>())
    }

    /// The file in which every part has the type of fewest bytes.
    ///
    /// # Errors
    /// A part that none of the types fits.
    pub fn smallest_file(&self) -> Result<Emission, Failure> {
        let parts = parts(self.tensors);
        self.check_types(&parts)?;
        let fewest = |part: &Part| {
            let fitting = self.among.iter().copied().filter(|&kind| self.fits(part, kind));
            fitting.min_by_key(|&kind| self.part_bytes(part, kind))
        };
        self.emission(&parts, |number| fewest(&parts[number]))
    }

    /// The file in which each part has the type that `kind` gives, and what has none is as stored.
    fn emission(&self, parts: &[Part], kind: impl Fn(usize) -> Option<Type>) -> Result<Emission, Failure> {
        let mut types: Vec<Type> = self.tensors.iter().map(|tensor| tensor.kind).collect();
        for (number, part) in parts.iter().enumerate() {
            part.tensors.iter().for_each(|&index| types[index] = kind(number).unwrap_or(types[index]));
        }
        let target = Target { types, file_type: FileType::Unnamed, ..self.target.clone() };
        Emission::new(self.import.source(), &target).map_err(host_failure)
    }

    fn pages(&mut self, emission: &Emission, encode: &dyn Encode) -> Result<(Pages, Vec<f64>), Failure> {
        let means = Means { encode, workers: self.bench.workers, progress: self.progress };
        self.import.to_pages(emission, &means).map_err(host_failure)
    }

    /// The file in which the parts have `types`.
    fn make(&mut self, parts: &[Part], types: &[Type]) -> Result<(Emission, Pages, Vec<f64>), Failure> {
        let emission = self.emission(parts, |number| Some(types[number]))?;
        let (pages, errors) = self.pages(&emission, &Rounding::new(Some(self.known.0)))?;
        Ok((emission, pages, errors))
    }

    fn kl_of(&self, gauge: &Gauge, image: &[u8]) -> Result<f64, Failure> {
        self.bench.run(image, |engine, _| gauge.kl(engine))
    }

    /// Measures what is not known yet. The gauge that comes with it is for text that nothing has seen.
    fn measure(&mut self, parts: &[Part]) -> Result<(Measured, Gauge, bool), Failure> {
        let mut measured = Measured::load(self.key());
        let emission = self.emission(parts, |_| Some(Type::F32))?;
        let (mut base, _) = self.pages(&emission, &Plain)?;
        let gauge = |sequences: &[Vec<u32>], base: &[u8]| {
            self.bench.run(base, |engine, _| Gauge::new(engine, sequences.to_vec(), BATCH_TOKENS))
        };
        let verify = gauge(&self.text.verify, &base)?;
        let missing: Vec<Type> =
            self.among.iter().copied().filter(|kind| !measured.types.contains_key(kind.name())).collect();
        if missing.is_empty() {
            return Ok((measured, verify, true));
        }
        let measure = gauge(&self.text.measure, &base)?;
        for kind in missing {
            let row = self.measure_type(kind, parts, &mut base, &measure, &verify)?;
            measured.types.insert(kind.name().to_owned(), row);
            measured.save();
        }
        Ok((measured, verify, false))
    }

    /// Tries `kind` in each part of the original in `base` alone, and in all together.
    fn measure_type(
        &mut self,
        kind: Type,
        parts: &[Part],
        base: &mut Pages,
        measure: &Gauge,
        verify: &Gauge,
    ) -> Result<OfType, Failure> {
        let fitting: Vec<bool> = parts.iter().map(|part| self.fits(part, kind)).collect();
        let emission = self.emission(parts, |number| Some(if fitting[number] { kind } else { Type::F32 }))?;
        let (rounded, _) = self.pages(&emission, &Rounding::new(Some(self.known.0)))?;
        let places = (places(self.bench.name, base)?, places(self.bench.name, &rounded)?);
        let mut row = OfType::default();
        self.progress.begin(&format!("measuring {}", kind.name()), parts.len() as u64 + 1);
        for (number, part) in parts.iter().enumerate() {
            let mut kl = None;
            if fitting[number] {
                let kept: Vec<Vec<u8>> = part.tensors.iter().map(|&at| base[places.0[at].clone()].to_vec()).collect();
                for &at in &part.tensors {
                    let n_columns = self.tensors[at].n_columns as usize;
                    widen(kind, n_columns, &rounded[places.1[at].clone()], &mut base[places.0[at].clone()]);
                }
                let image: &[u8] = base;
                kl = Some(self.kl_of(measure, image)?);
                for (&at, kept) in part.tensors.iter().zip(&kept) {
                    base[places.0[at].clone()].copy_from_slice(kept);
                }
            }
            row.parts.push(kl);
            self.progress.advance(1);
        }
        if fitting.iter().all(|&fits| fits) {
            row.uniform = Some(self.kl_of(verify, &rounded)?);
        }
        self.progress.end();
        Ok(row)
    }

    /// The types that a part may have, with what they take and do.
    fn offers(&self, index: usize, part: &Part, measured: &Measured) -> Vec<(Type, Offer)> {
        let offer = |&kind: &Type| {
            let damage = (*measured.types.get(kind.name())?.parts.get(index)?)?;
            Some((kind, Offer { bytes: self.part_bytes(part, kind), damage }))
        };
        self.among.iter().filter_map(offer).collect()
    }

    /// The single type of least damage with which the file takes at most `target_bytes`.
    fn best_uniform(
        &self,
        parts: &[Part],
        measured: &Measured,
        target_bytes: u64,
    ) -> Result<Option<(Type, Uniform)>, Failure> {
        let mut best: Option<(Type, Uniform)> = None;
        for &kind in &self.among {
            let Some(kl) = measured.types.get(kind.name()).and_then(|row| row.uniform) else { continue };
            let bytes = self.emission(parts, |_| Some(kind))?.file_bytes();
            if bytes <= target_bytes && best.as_ref().is_none_or(|(_, best)| kl < best.kl) {
                best = Some((kind, Uniform { kind: kind.name(), bytes, kl }));
            }
        }
        Ok(best)
    }

    /// Everything that measurements depend on.
    fn key(&self) -> String {
        let tokens = |sequences: &[Vec<u32>]| {
            let bytes: Vec<u8> = sequences.iter().flatten().flat_map(|token| token.to_le_bytes()).collect();
            format!("{:016x} of {}", Fnv1a::of(&bytes), sequences.len())
        };
        let files: Vec<String> = self.import.source().files().iter().map(|path| identity(path)).collect();
        format!(
            "smidgen {}; {}; measured on {}, judged on {}; {}",
            env!("CARGO_PKG_VERSION"),
            files.join(", "),
            tokens(&self.text.measure),
            tokens(&self.text.verify),
            self.known.1
        )
    }
}

/// Where each tensor's bytes lie in `image`.
fn places(name: &str, image: &[u8]) -> Result<Vec<std::ops::Range<usize>>, Failure> {
    let gguf = Gguf::parse(image, image.len() as u64).map_err(|error| Failure::Input(format!("{name}: {error}")))?;
    Ok(gguf.tensors().map(|tensor| tensor.offset as usize..(tensor.offset + tensor.n_bytes) as usize).collect())
}

/// Writes rows of `kind` as f32.
fn widen(kind: Type, n_columns: usize, rows: &[u8], out: &mut [u8]) {
    let row_bytes = kind.row_bytes(n_columns as u64).unwrap_or(0) as usize;
    let mut weights = vec![0.0f32; n_columns];
    for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(n_columns * 4)) {
        // Types of whole files are supported, or there would be no file.
        let _ = kind.dequantize(row, &mut weights);
        for (out, weight) in out.as_chunks_mut::<4>().0.iter_mut().zip(&weights) {
            *out = weight.to_le_bytes();
        }
    }
}
