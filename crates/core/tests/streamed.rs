//! A model of which only a part is in memory gives the bits of one that is there as a whole.

use smidgen_core::engine::{self, Engine};
use smidgen_core::gguf::{Gguf, Tensor};
use smidgen_core::kv::{CacheType, PAGE};
use smidgen_core::model::{Hparams, Layer, Model};
use smidgen_core::plan::{Limits, Plan};
use smidgen_core::simd::Isa;
use smidgen_core::store::{Borrow, Each, Fault, Head, Lost, Spill, Store};
use smidgen_core::workers::Single;
use std::cell::{Cell, RefCell};
use std::ops::Range;

const TALES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf");
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
    /// How many positions the caches were going to have, and how often rows had been asked for then.
    grown: RefCell<Vec<(usize, usize)>>,
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

    fn caches_grow(&self, n_positions: usize) {
        self.grown.borrow_mut().push((n_positions, self.streamed.borrow().len()));
    }
}

fn file(bytes: &[u8], group: usize, fails_in: usize) -> File<'_> {
    let (streamed, fetched, grown) = Default::default();
    File { bytes, group, streamed, fetched, fails_in: Cell::new(fails_in), grown }
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
    let bytes = std::fs::read(TALES).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::partly_held(&gguf, &mut layers, &|tensor| held(&gguf, tensor, part)).unwrap();
    // No layer of this model sees a window: all positions are kept in any case.
    let plan = Plan::new(&model, &Limits { keeps_all: true, ..LIMITS }).unwrap();
    let mut arena = vec![0xff; plan.arena_bytes()];
    let file = file(&bytes, group, fails_in);
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

/// Before anything of a batch is computed, and so before its rows are stored.
#[test]
fn the_store_hears_of_every_batch_before_it_runs() {
    with_engine(0, 8, usize::MAX, |engine, _, file| {
        engine.forward(&TOKENS).unwrap();
        engine.forward(&TOKENS[..1]).unwrap();
        let of_layers = 6 * 7;
        let asked = [0, of_layers, 2 * of_layers, 3 * of_layers + 1];
        assert_eq!(file.grown.take(), [7, 14, 20, 21].into_iter().zip(asked).collect::<Vec<_>>());
    });
}

#[test]
fn the_store_hears_of_rows_that_are_restored() {
    with_engine(0, 8, usize::MAX, |engine, _, file| {
        let restored: Result<(), ()> = engine.restore(9, |_, _| {
            assert_eq!(*file.grown.borrow(), [(9, 0)]);
            Ok(())
        });
        restored.unwrap();
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

/// Rows in memory of its own, in order of their positions, of which it lends a copy.
struct Elsewhere {
    /// For each head of each layer, keys and values.
    rows: RefCell<Vec<[Vec<u8>; 2]>>,
    n_heads: usize,
    row_bytes: [usize; 2],
    is_full: Cell<bool>,
    n_lent: Cell<usize>,
}

impl Elsewhere {
    fn new(h: &Hparams<'_>, limits: &Limits) -> Self {
        let row_bytes = [limits.cache_k, limits.cache_v].map(|kind| kind.row_bytes(h.head_dim));
        let rows = vec![Default::default(); h.n_layers * h.n_kv_heads].into();
        Elsewhere { rows, n_heads: h.n_kv_heads, row_bytes, is_full: Cell::default(), n_lent: Cell::default() }
    }
}

impl Spill for Elsewhere {
    fn keep(&self, head: Head, position: usize, keys: &[u8], values: &[u8]) -> Result<(), Lost> {
        if self.is_full.get() {
            return Err(Lost);
        }
        let kept = &mut self.rows.borrow_mut()[head.layer * self.n_heads + head.head];
        for ((kept, new), row_bytes) in kept.iter_mut().zip([keys, values]).zip(self.row_bytes) {
            assert_eq!((position % PAGE, new.len()), (0, PAGE * row_bytes));
            assert!(kept.len() >= position * row_bytes, "pages come in order");
            kept.truncate(position * row_bytes);
            kept.extend_from_slice(new);
        }
        Ok(())
    }

    fn lend(&self, head: Head, positions: Range<usize>, job: Borrow<'_>) -> Result<(), Lost> {
        let rows = self.rows.borrow();
        let [keys, values] = &rows[head.layer * self.n_heads + head.head];
        self.n_lent.set(self.n_lent.get() + positions.len());
        let rows =
            |bytes: &[u8], row_bytes: usize| bytes[positions.start * row_bytes..positions.end * row_bytes].to_vec();
        job(&rows(keys, self.row_bytes[0]), &rows(values, self.row_bytes[1]));
        Ok(())
    }
}

/// A context of a few pages.
const LONG: Limits = Limits { context_tokens: 150, cache_k: CacheType::F16, cache_v: CacheType::Q8_0, ..LIMITS };

/// What `job` does with an engine that has room for `n_rows` rows, and who has the others.
fn with_spilled<T>(n_rows: usize, job: impl FnOnce(&mut Engine<'_>, &Plan, &Elsewhere) -> T) -> T {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales.gguf")).unwrap();
    let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
    let mut layers = vec![Layer::EMPTY; Model::n_layers(&gguf).unwrap()];
    let model = Model::new(&gguf, &mut layers).unwrap();
    let plan = Plan::with_cached_rows(&model, &LONG, n_rows).unwrap();
    let elsewhere = Elsewhere::new(model.hparams(), &LONG);
    let mut arena = vec![0xff; plan.arena_bytes()];
    let engine = Engine::new(&model, &plan, Isa::detect(), &Single, &mut arena).unwrap();
    job(&mut engine.with_spill(&elsewhere), &plan, &elsewhere)
}

fn long() -> Vec<u32> {
    (0..LONG.context_tokens as u32).map(|i| (i * 7919 + 13) % 2048).collect()
}

/// The bits of batches, of single tokens, and of positions forgotten and run again.
fn spilled_bits(engine: &mut Engine<'_>) -> Result<Vec<u32>, engine::Error> {
    let tokens = long();
    let mut bits = Vec::new();
    let mut keep = |logits: &[f32]| bits.extend(logits.iter().map(|x| x.to_bits()));
    engine.forward_each(&tokens[..90], |_, logits| keep(logits))?;
    for token in &tokens[90..] {
        keep(engine.forward(&[*token])?);
    }
    for n in [138, 71, 33, 3] {
        let left = engine.truncate(n);
        assert!(left == n || left == n / PAGE * PAGE, "{left} of {n}");
        engine.forward(&tokens[left..=n])?;
        engine.forward_each(&tokens[5..15], |_, logits| keep(logits))?;
    }
    Ok(bits)
}

#[test]
fn however_many_rows_are_spilled_the_bits_are_the_same() {
    let want = with_spilled(usize::MAX, |engine, plan, elsewhere| {
        assert_eq!((plan.spilled_rows(), elsewhere.n_lent.get()), (0, 0));
        spilled_bits(engine).unwrap()
    });
    let mut most = usize::MAX;
    // No fewer than a batch and a page need.
    for (n_rows, cached) in [(0, 64), (64, 64), (100, 96), (149, 128usize)] {
        with_spilled(n_rows, |engine, plan, elsewhere| {
            assert_eq!((plan.cached_rows(), plan.spilled_rows()), (cached, (150 - cached).next_multiple_of(PAGE)));
            assert!(spilled_bits(engine).unwrap() == want, "{n_rows} rows in memory");
            let n_lent = elsewhere.n_lent.get();
            assert!(0 < n_lent && n_lent <= most, "{n_lent} rows lent, and {most} with fewer in memory");
            most = n_lent;
        });
    }
}

#[test]
fn rows_that_nobody_keeps_end_a_pass_and_one_can_go_on_later() {
    let want = with_spilled(usize::MAX, |engine, _, _| engine.forward(&long()).unwrap().to_vec());
    with_spilled(64, |engine, _, elsewhere| {
        elsewhere.is_full.set(true);
        engine.forward(&long()[..60]).unwrap();
        assert_eq!(engine.forward(&long()[60..70]).map(|_| ()), Err(engine::Error::Cache(0)));
        elsewhere.is_full.set(false);
        let left = engine.truncate(60);
        assert_eq!(left, 60);
        assert!(engine.forward(&long()[60..]).unwrap() == want);
    });
}
