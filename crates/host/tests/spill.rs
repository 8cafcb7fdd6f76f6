//! Caches kept in a file give the bits of caches in memory, at every context length and after positions are forgotten.

use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::store::Spill;
use smidgen_core::workers::Single;
use smidgen_host::spill::{LayerShape, SpillFile, first_on_disk};
use std::path::Path;

/// More than one sector of rows for each head, and a last one in part.
const CONTEXT: usize = 75;

/// The bits of logits after prompts, single tokens and forgotten positions, with the caches of `n_cached` layers in memory.
fn bits(n_cached: usize, cache: CacheType, directory: &Path) -> Vec<u32> {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    let h = *model.hparams();
    let limits = Limits {
        context_tokens: CONTEXT,
        batch_tokens: 7,
        n_threads: 1,
        cache_k: cache,
        cache_v: CacheType::F16,
        keeps_all: false,
    };
    let plan = Plan::with_cached_layers(&model, &limits, n_cached).unwrap();
    let spilled = (0..h.n_layers).filter(|&layer| plan.cache_place(&h, layer).is_none());
    let spilled: Vec<(usize, LayerShape)> = spilled.map(|layer| (layer, LayerShape::of(&h, &limits, layer))).collect();
    let spill = (!spilled.is_empty()).then(|| SpillFile::new(directory, &spilled).unwrap());
    let mut arena = vec![0xff; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    if let Some(spill) = &spill {
        engine = engine.with_spill(spill);
    }
    let tokens: Vec<u32> = (0..CONTEXT as u32).map(|i| (i * 7919 + 13) % 2048).collect();
    let mut bits = Vec::new();
    let mut keep = |logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
    keep(engine.forward(&tokens[..30]).unwrap());
    for token in &tokens[30..CONTEXT] {
        keep(engine.forward(&[*token]).unwrap());
    }
    // What was forgotten is written over, in the middle of a sector and of a pass that was read ahead.
    for n in [41, 0, 3] {
        engine.truncate(n);
        engine.forward_each(&tokens[5..25], |_, logits| keep(logits)).unwrap();
    }
    bits
}

#[test]
fn whatever_is_in_the_file_the_bits_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    for cache in [CacheType::F32, CacheType::Q8_0] {
        let want = bits(6, cache, directory.path());
        for n_cached in [0, 1, 4, 5] {
            assert!(bits(n_cached, cache, directory.path()) == want, "{n_cached} of 6 in memory, {}", cache.name());
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing stays behind");
}

#[test]
fn a_layer_that_was_not_spilled_is_not_lent() {
    let directory = tempfile::tempdir().unwrap();
    let shape = LayerShape { key_row_bytes: 64, value_row_bytes: 34, n_kv_heads: 2, n_rows: 9 };
    let spill = SpillFile::new(directory.path(), &[(1, shape), (3, shape)]).unwrap();
    assert!(spill.lend(2, 0, 1, &mut |_, _| unreachable!("there is no such layer")).is_err());
    let mut sizes = None;
    spill.lend(3, 0, 9, &mut |keys, values| sizes = Some((keys.len(), values.len()))).unwrap();
    assert_eq!(sizes, Some((64 * 2 * 9, 34 * 2 * 9)));
}

#[test]
fn a_directory_that_cannot_hold_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let shape = LayerShape { key_row_bytes: 64, value_row_bytes: 64, n_kv_heads: 1, n_rows: 8 };
    let error = SpillFile::new(&file, &[(0, shape)]).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("file") && error.exit_code() == 1, "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_in_memory_is_passed_over() {
    let here = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let wanted = here.path().to_path_buf();
    if Path::new("/dev/shm").is_dir() {
        assert_eq!(first_on_disk(["/dev/shm/not/there".into(), wanted.clone()]), Some(wanted));
        assert_eq!(first_on_disk(["/dev/shm".into()]), None);
    }
}
