//! Layers that see a window keep only that, in memory or in a file, and give the bits of layers that keep every position.

use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;
use smidgen_host::spill::{LayerShape, SpillFile};

/// Models with a window of at most eight positions, in all of their layers or in some.
const MODELS: [&str; 4] = ["gemma3-linear-window", "gpt-neo-window", "mistral-window", "qwen2-untied-window"];

const LIMITS: Limits = Limits {
    context_tokens: 40,
    batch_tokens: 5,
    n_threads: 1,
    cache_k: CacheType::F32,
    cache_v: CacheType::Q8_0,
    keeps_all: true,
};

fn with_model<T>(name: &str, job: impl FnOnce(&Model<'_>) -> T) -> T {
    let path = format!("{}/../../testdata/hf/{name}", env!("CARGO_MANIFEST_DIR"));
    let file = smidgen_host::open(&path, &smidgen_host::OpenOptions::default()).unwrap();
    let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    job(&model)
}

/// The bits of every position's logits, with the caches of `n_cached` layers in memory: batches that fill the context, then positions
/// forgotten and run again, by one, by a batch, and by more than that.
fn bits(model: &Model<'_>, limits: &Limits, n_cached: usize) -> Vec<u32> {
    let h = *model.hparams();
    let plan = Plan::with_cached_layers(model, limits, n_cached).unwrap();
    let spilled = (0..h.n_layers).filter(|&layer| plan.cache_place(&h, layer).is_none());
    let spilled: Vec<(usize, LayerShape)> = spilled.map(|layer| (layer, LayerShape::of(&h, limits, layer))).collect();
    let directory = tempfile::tempdir().unwrap();
    let spill = (!spilled.is_empty()).then(|| SpillFile::new(directory.path(), &spilled).unwrap());
    let mut arena = vec![0xff; plan.arena_bytes()];
    let mut engine = Engine::new(model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    if let Some(spill) = &spill {
        engine = engine.with_spill(spill);
    }
    let tokens: Vec<u32> = (0..40).map(|i| (i * 7919 + 13) % h.n_vocab as u32).collect();
    let mut bits = vec![Vec::new(); tokens.len()];
    for (left, end) in [(0, 3), (3, 22), (22, 23), (22, 31), (26, 31), (30, 40), (12, 40), (2, 9)] {
        let held = engine.truncate(left);
        assert!(held == left || held == 0, "{held} of {left}");
        engine
            .forward_each(&tokens[held..end], |index, logits| {
                let new: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
                let old = &mut bits[held + index];
                assert!(old.is_empty() || *old == new, "position {} differs the second time", held + index);
                *old = new;
            })
            .unwrap();
    }
    bits.concat()
}

#[test]
fn a_window_is_all_that_is_kept_and_gives_the_same_bits() {
    for name in MODELS {
        with_model(name, |model| {
            let h = *model.hparams();
            let narrow = Limits { keeps_all: false, ..LIMITS };
            let bytes = |limits: &Limits| Plan::new(model, limits).unwrap().cache_bytes();
            let windows = (0..h.n_layers).filter_map(|layer| h.window(layer));
            let n_rows: usize = (0..h.n_layers).map(|layer| h.window(layer).map_or(40, |window| window + 5)).sum();
            assert!(
                windows.clone().count() > 0 && windows.clone().all(|window| window <= 8),
                "{name}: {:?}",
                windows.max()
            );
            assert_eq!(bytes(&narrow), bytes(&LIMITS) * n_rows / (40 * h.n_layers), "{name}");
            let want = bits(model, &LIMITS, h.n_layers);
            for n_cached in 0..=h.n_layers {
                assert!(bits(model, &narrow, n_cached) == want, "{name}: {n_cached} layers in memory");
            }
        });
    }
}

/// Going back by a batch costs nothing; by more, only what is in every layer still counts.
#[test]
fn one_can_go_back_by_a_batch() {
    with_model("mistral-window", |model| {
        let plan = Plan::new(model, &Limits { keeps_all: false, ..LIMITS }).unwrap();
        let mut arena = vec![0xff; plan.arena_bytes()];
        let mut engine = Engine::new(model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
        let mut go_back = |n: usize| {
            engine.truncate(0);
            engine.forward(&[1; 30]).unwrap();
            engine.truncate(n)
        };
        assert_eq!([30, 29, 25, 24, 23, 8].map(&mut go_back), [30, 29, 25, 24, 0, 0]);
    });
}
