//! Layers that see a window keep only that, in memory or in a file, and give the bits of layers that keep every position.

use smidgen_core::engine::Engine;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::{CacheType, PAGE};
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::workers::Single;
use smidgen_host::spill::{SpillFile, SpillShape};

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

/// The steps that fill a context and go back: positions left, and where the next ones end.
const STEPS: [(usize, usize); 8] = [(0, 3), (3, 22), (22, 23), (22, 31), (26, 31), (30, 40), (12, 40), (2, 9)];

fn folder(name: &str) -> String {
    format!("{}/../../testdata/hf/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn with_model<T>(path: &str, job: impl FnOnce(&Model<'_>) -> T) -> T {
    let file = smidgen_host::open(path, &smidgen_host::OpenOptions::default()).unwrap();
    let gguf = Gguf::parse(file.bytes(), file.bytes().len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    job(&model)
}

/// The bits of every position's logits, with `n_rows` rows in memory: batches that fill the context, then positions forgotten and run
/// again, by one, by a batch, and by more than that.
fn bits(model: &Model<'_>, limits: &Limits, n_rows: usize, steps: &[(usize, usize)]) -> Vec<u32> {
    let h = *model.hparams();
    let plan = Plan::with_cached_rows(model, limits, n_rows).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let spill = SpillShape::of(&h, &plan).map(|shape| SpillFile::new(directory.path(), &shape).unwrap());
    let mut arena = vec![0xff; plan.arena_bytes()];
    let mut engine = Engine::new(model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    if let Some(spill) = &spill {
        engine = engine.with_spill(spill);
    }
    let tokens: Vec<u32> = (0..limits.context_tokens).map(|i| ((i * 7919 + 13) % h.n_vocab) as u32).collect();
    let mut bits = vec![Vec::new(); tokens.len()];
    for &(left, end) in steps {
        let held = engine.truncate(left);
        let is_page = spill.is_some() && held == left / PAGE * PAGE;
        assert!(held == left || held == 0 || is_page, "{held} of {left}");
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
        with_model(&folder(name), |model| {
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
            let want = bits(model, &LIMITS, usize::MAX, &STEPS);
            assert!(bits(model, &narrow, usize::MAX, &STEPS) == want, "{name}");
        });
    }
}

/// Windows of more rows than there is room for: what is lent begins behind the rows that nobody sees any more.
#[test]
fn of_a_window_that_is_spilled_only_its_rows_are_read() {
    const STEPS: [(usize, usize); 8] =
        [(0, 3), (3, 150), (150, 151), (151, 260), (230, 262), (261, 300), (100, 300), (2, 9)];
    for name in ["gemma3-linear-window", "mistral-window"] {
        let wide = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), wide.path().join(entry.file_name())).unwrap();
        }
        let config = wide.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains("\"sliding_window\": 8"));
        std::fs::write(&config, text.replace("\"sliding_window\": 8", "\"sliding_window\": 100")).unwrap();
        with_model(wide.path().to_str().unwrap(), |model| {
            let h = *model.hparams();
            let all = Limits { context_tokens: 300, ..LIMITS };
            let narrow = Limits { keeps_all: false, ..all };
            let want = bits(model, &all, usize::MAX, &STEPS);
            for n_rows in [64, 96, 128] {
                let shape = SpillShape::of(&h, &Plan::with_cached_rows(model, &narrow, n_rows).unwrap());
                let n_spilled = shape.as_ref().map_or(0, |shape| shape.layers.len());
                let windowed = (0..h.n_layers).filter(|&layer| h.window(layer).is_some()).count();
                let expected = if n_rows < 105 { h.n_layers } else { h.n_layers - windowed };
                assert_eq!(n_spilled, expected, "{name}: {n_rows} rows");
                for (layer, n_lent) in shape.map_or(Vec::new(), |shape| shape.layers) {
                    assert_eq!(n_lent < 192, h.window(layer).is_some(), "{name}: layer {layer} lends {n_lent}");
                }
                assert!(bits(model, &narrow, n_rows, &STEPS) == want, "{name}: {n_rows} rows in memory");
            }
        });
    }
}

/// Going back by a batch costs nothing; by more, only what is in every layer still counts.
#[test]
fn one_can_go_back_by_a_batch() {
    with_model(&folder("mistral-window"), |model| {
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
