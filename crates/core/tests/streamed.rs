//! A model of which only a part is in memory gives the bits of one that is there as a whole.

use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::store::{Borrow, Each, Fault, Lost, Spill, Store};
use smidgen_core::workers::Single;
use std::cell::{Cell, RefCell};

const LIMITS: Limits = Limits {
    context_tokens: 24,
    batch_tokens: 7,
    n_threads: 1,
    cache_k: CacheType::F32,
    cache_v: CacheType::F32,
    keeps_all: false,
};
const TOKENS: [u32; 20] = [1, 5, 900, 33, 2047, 0, 77, 8, 9, 1000, 1, 1, 512, 600, 31, 4, 99, 1234, 6, 7];

/// A file in memory that hands over at most `group` rows at a time and fails when `fails_in` calls have been made.
struct File<'a> {
    bytes: &'a [u8],
    group: usize,
    streamed: RefCell<Vec<u64>>,
    fetched: Cell<usize>,
    fails_in: Cell<usize>,
}

impl File<'_> {
    fn count(&self, at: u64) -> Result<(), Fault> {
        let left = self.fails_in.get().checked_sub(1).ok_or(Fault(at))?;
        self.fails_in.set(left);
        Ok(())
    }
}

impl Store for File<'_> {
    fn stream(&self, at: u64, row_bytes: usize, n_rows: usize, each: Each<'_>) -> Result<(), Fault> {
        self.count(at)?;
        self.streamed.borrow_mut().push(at);
        self.bytes[at as usize..][..row_bytes * n_rows].chunks(self.group * row_bytes).for_each(each);
        Ok(())
    }

    fn fetch(&self, at: u64, row_bytes: usize, each: Each<'_>) -> Result<(), Fault> {
        self.count(at)?;
        self.fetched.set(self.fetched.get() + 1);
        each(&self.bytes[at as usize..][..row_bytes]);
        Ok(())
    }
}

/// The first `part` of 8 parts of a matrix's rows, and vectors whole.
fn held<'a>(gguf: &Gguf<'a>, tensor: &Tensor<'a>, part: u64) -> Option<&'a [u8]> {
    let n_rows = tensor.dims[1];
    let held = if n_rows == 1 { n_rows } else { n_rows * part / 8 };
    gguf.data(tensor).map(|data| &data[..(held * tensor.n_bytes / n_rows) as usize])
}

/// Runs the embedded model with `part` of 8 parts of it in memory, handing the engine, the model and the store to `job`.
fn with_engine<T>(
    part: u64,
    group: usize,
    fails_in: usize,
    job: impl FnOnce(&mut Engine<'_>, &Model<'_>, &File<'_>) -> T,
) -> T {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| held(&gguf, tensor, part)).unwrap();
    let plan = Plan::new(&model, &LIMITS).unwrap();
    let mut arena = vec![0xff; plan.arena_bytes()];
    let (streamed, fetched) = (RefCell::default(), Cell::new(0));
    let file = File { bytes: &bytes, group, streamed, fetched, fails_in: Cell::new(fails_in) };
    let engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    job(&mut engine.with_store(&file), &model, &file)
}

fn bits(engine: &mut Engine<'_>) -> Vec<u32> {
    let mut bits = Vec::new();
    engine.forward_each(&TOKENS, |_, logits| bits.extend(logits.iter().map(|x| x.to_bits()))).unwrap();
    bits
}

#[test]
fn whatever_is_in_memory_the_bits_are_the_same() {
    let want = with_engine(8, 1, 0, |engine, _, _| bits(engine));
    for part in [0, 1, 5, 7] {
        // Groups at the seams of tiles, and all rows at once.
        for group in [1, 7, 8, 9, 4096] {
            let got = with_engine(part, group, usize::MAX, |engine, _, _| bits(engine));
            assert!(got == want, "{part}/8 in memory, {group} rows at a time");
        }
    }
}

#[test]
fn rows_are_asked_for_in_the_order_that_the_model_tells() {
    with_engine(0, 8, usize::MAX, |engine, model, file| {
        let order: Vec<u64> = model.matrices().map(|matrix| matrix.offset(0)).collect();
        assert_eq!(order.len(), 6 * 7 + 1);
        for tokens in [&TOKENS[..6], &TOKENS[6..7]] {
            engine.forward(tokens).unwrap();
            assert_eq!(file.streamed.take(), order);
            assert_eq!(file.fetched.take(), tokens.len(), "one row of the embedding for each token");
        }
    });
}

#[test]
fn what_cannot_be_read_is_an_error_and_the_engine_goes_on_when_it_can() {
    let want = with_engine(8, 1, 0, |engine, _, _| engine.forward(&TOKENS).unwrap().to_vec());
    // Of these six rows of the embedding two are not in memory; 43 matrices follow, the output last.
    for fails_in in [0, 1, 6, 20, 44] {
        with_engine(3, 8, fails_in, |engine, _, file| {
            let failed = engine.forward(&TOKENS[..6]).map(|_| ()).unwrap_err();
            assert!(matches!(failed, engine::Error::Storage(at) if at > 0), "{failed}");
            file.fails_in.set(usize::MAX);
            let n = engine.position();
            assert!(n == 0 || n == 6 && fails_in == 44, "{n} positions: only the output matrix comes after the layers");
            engine.truncate(0);
            assert!(engine.forward(&TOKENS).unwrap() == want);
        });
    }
}

#[test]
fn without_a_store_nothing_is_made_up() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| held(&gguf, tensor, 4)).unwrap();
    let plan = Plan::new(&model, &LIMITS).unwrap();
    let mut arena = vec![0; plan.arena_bytes()];
    let mut engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    assert!(matches!(engine.forward(&[1]), Err(engine::Error::Storage(_))));
}

/// Layers' caches in memory of its own, of which it lends a fresh copy that holds no more than was promised.
struct Elsewhere {
    /// For each layer, rows of keys and rows of values.
    layers: RefCell<Vec<[Vec<u8>; 2]>>,
    row_bytes: [usize; 2],
    n_heads: usize,
    is_full: Cell<bool>,
}

impl Elsewhere {
    /// Copies the rows of some positions of every head.
    fn copy(&self, side: usize, from: &[u8], to: &mut [u8], positions: std::ops::Range<usize>) {
        let (row_bytes, stride) = (self.row_bytes[side], LIMITS.context_tokens * self.row_bytes[side]);
        for head in 0..self.n_heads {
            let rows = head * stride + positions.start * row_bytes..head * stride + positions.end * row_bytes;
            to[rows.clone()].copy_from_slice(&from[rows]);
        }
    }
}

impl Spill for Elsewhere {
    fn lend(&self, layer: usize, n_held: usize, n_new: usize, job: Borrow<'_>) -> Result<(), Lost> {
        if self.is_full.get() {
            return Err(Lost);
        }
        let kept = &mut self.layers.borrow_mut()[layer];
        let mut lent = kept.each_ref().map(|side| vec![0xff; side.len()]);
        for side in 0..2 {
            self.copy(side, &kept[side], &mut lent[side], 0..n_held);
        }
        let [keys, values] = &mut lent;
        job(keys, values);
        for side in 0..2 {
            self.copy(side, &lent[side], &mut kept[side], n_held..n_held + n_new);
        }
        Ok(())
    }
}

/// The logits' bits with the caches of `n_cached` layers in the arena; the caches are F16 and Q8_0.
fn with_spilled(n_cached: usize, is_full: bool) -> Result<Vec<u32>, engine::Error> {
    let limits = Limits { cache_k: CacheType::F16, cache_v: CacheType::Q8_0, ..LIMITS };
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    let h = *model.hparams();
    let plan = Plan::with_cached_layers(&model, &limits, n_cached).unwrap();
    let whole = Plan::new(&model, &limits).unwrap();
    assert_eq!(
        (0..h.n_layers).filter_map(|layer| plan.cache_place(&h, layer)).map(|place| place.start).collect::<Vec<_>>(),
        Vec::from_iter((0..n_cached).map(|place| place * limits.context_tokens))
    );
    assert_eq!(plan.arena_bytes() < whole.arena_bytes(), n_cached < h.n_layers);
    let row_bytes = [limits.cache_k, limits.cache_v].map(|kind| kind.row_bytes(h.head_dim));
    let side = |row_bytes: usize| vec![0xff; h.n_kv_heads * limits.context_tokens * row_bytes];
    let elsewhere = Elsewhere {
        layers: vec![row_bytes.map(side); h.n_layers].into(),
        row_bytes,
        n_heads: h.n_kv_heads,
        is_full: Cell::new(is_full),
    };
    let mut arena = vec![0xff; plan.arena_bytes()];
    let engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    let mut engine = engine.with_spill(&elsewhere);
    engine.forward(&TOKENS[..9])?;
    engine.truncate(4);
    let mut bits = Vec::new();
    engine.forward_each(&TOKENS[4..], |_, logits| bits.extend(logits.iter().map(|x| x.to_bits())))?;
    Ok(bits)
}

#[test]
fn whichever_caches_are_spilled_the_bits_are_the_same() {
    let want = with_spilled(6, true).unwrap();
    for n_cached in [0, 1, 2, 5] {
        assert!(with_spilled(n_cached, false).unwrap() == want, "{n_cached} of 6 layers cached in memory");
        assert!(matches!(with_spilled(n_cached, true), Err(engine::Error::Cache(_))));
    }
}
