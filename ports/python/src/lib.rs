//! The module `smidgen` of Python: a model, its text, its tokens and its logits. `smidgen.pyi` is the description.

mod owner;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use owner::{Failure, Owner, Prompt, Request, Wanted};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use smidgen_core::kv::CacheType;
use smidgen_core::sample::SampleParams;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often somebody who waits looks whether Ctrl-C was pressed.
const PATIENCE: Duration = Duration::from_millis(50);

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Input(message) => PyValueError::new_err(message),
            Failure::Failed(message) => PyOSError::new_err(message),
        }
    }
}

/// A prompt as Python gives it.
#[derive(FromPyObject)]
enum Given {
    Text(String),
    Ids(Vec<u32>),
}

/// The types of a cache, as Python calls them.
const CACHES: [(&str, CacheType); 4] =
    [("f32", CacheType::F32), ("f16", CacheType::F16), ("q8_0", CacheType::Q8_0), ("q4_0", CacheType::Q4_0)];

/// A model, open and ready.
#[pyclass(frozen, module = "smidgen")]
struct Model {
    owner: Owner,
    path: String,
}

#[pymethods]
impl Model {
    #[new]
    #[pyo3(signature = (path, *, context = None, threads = None, cache = "f32"))]
    fn new(
        py: Python<'_>,
        path: std::path::PathBuf,
        context: Option<usize>,
        threads: Option<usize>,
        cache: &str,
    ) -> PyResult<Self> {
        let unknown = || PyValueError::new_err("cache is one of 'f32', 'f16', 'q8_0' and 'q4_0'");
        let cache = CACHES.iter().find(|(name, _)| *name == cache).ok_or_else(unknown)?.1;
        if threads == Some(0) {
            return Err(PyValueError::new_err("threads is at least 1"));
        }
        let wanted = Wanted { context_tokens: context, n_threads: threads, cache };
        let path = path.to_string_lossy().into_owned();
        let owner = py.detach(|| Owner::open(path.clone(), wanted))?;
        Ok(Self { owner, path })
    }

    #[getter]
    fn n_vocab(&self) -> usize {
        self.owner.facts.n_vocab
    }

    #[getter]
    fn context(&self) -> usize {
        self.owner.facts.context_tokens
    }

    #[getter]
    fn memory_bytes(&self) -> usize {
        self.owner.facts.arena_bytes
    }

    #[getter]
    fn weight_bytes(&self) -> usize {
        self.owner.facts.file_bytes
    }

    #[getter]
    fn position(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(py.detach(|| self.owner.ask(|session| Ok(session.position())))?)
    }

    #[pyo3(signature = (text, *, special = true))]
    fn encode(&self, py: Python<'_>, text: String, special: bool) -> PyResult<Vec<u32>> {
        Ok(py.detach(|| self.owner.ask(move |session| session.encode(&text, special)))?)
    }

    fn decode(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        Ok(py.detach(|| self.owner.ask(move |session| session.decode(&ids)))?)
    }

    fn logits<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let shape = [ids.len(), self.owner.facts.n_vocab];
        let logits = py.detach(|| self.owner.ask(move |session| session.logits(&ids)))?;
        PyArray1::from_vec(py, logits).reshape(shape)
    }

    #[pyo3(signature = (n = 0))]
    fn truncate(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        Ok(py.detach(|| {
            self.owner.ask(move |session| {
                session.truncate(n);
                Ok(())
            })
        })?)
    }

    #[pyo3(signature = (prompt, n = None, *, temperature = 0.8, top_k = 40, top_p = 0.95, min_p = 0.05,
        repeat_penalty = 1.0, repeat_last_n = 64, seed = 0, ignore_eos = false))]
    #[allow(clippy::too_many_arguments)] // Python's are named.
    fn stream(
        &self,
        prompt: Given,
        n: Option<usize>,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repeat_penalty: f32,
        repeat_last_n: usize,
        seed: u64,
        ignore_eos: bool,
    ) -> PyResult<Stream> {
        let in_range = temperature >= 0.0 && (0.0..=1.0).contains(&top_p) && (0.0..=1.0).contains(&min_p);
        if !in_range || repeat_penalty.is_nan() || repeat_penalty <= 0.0 {
            let message = "temperature is at least 0, top_p and min_p are 0 to 1, and repeat_penalty is above 0";
            return Err(PyValueError::new_err(message));
        }
        let base = SampleParams::default();
        let params = SampleParams { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n, seed, ..base };
        let prompt = match prompt {
            Given::Text(text) => Prompt::Text(text),
            Given::Ids(ids) => Prompt::Ids(ids),
        };
        let request = Request { prompt, n_new: n.unwrap_or(usize::MAX), ignore_end: ignore_eos, params };
        Ok(Stream { pieces: Mutex::new(Some(self.owner.write(request)?)) })
    }

    #[pyo3(signature = (prompt, n = None, *, temperature = 0.8, top_k = 40, top_p = 0.95, min_p = 0.05,
        repeat_penalty = 1.0, repeat_last_n = 64, seed = 0, ignore_eos = false))]
    #[allow(clippy::too_many_arguments)] // As for `stream`, whose pieces these are.
    fn generate(
        &self,
        py: Python<'_>,
        prompt: Given,
        n: Option<usize>,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repeat_penalty: f32,
        repeat_last_n: usize,
        seed: u64,
        ignore_eos: bool,
    ) -> PyResult<String> {
        let stream =
            self.stream(prompt, n, temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n, seed, ignore_eos)?;
        let mut text = String::new();
        while let Some(piece) = stream.__next__(py)? {
            text += &piece;
        }
        Ok(text)
    }

    fn __repr__(&self) -> String {
        format!("smidgen.Model({:?})", self.path)
    }
}

/// The pieces of a text, as the model makes them.
#[pyclass(frozen, module = "smidgen")]
struct Stream {
    /// None once the text is over.
    pieces: Mutex<Option<Receiver<Result<String, Failure>>>>,
}

#[pymethods]
impl Stream {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        loop {
            let received = py.detach(|| {
                // A thread that panicked with the lock has lost the pieces it took, and no others.
                let mut pieces = self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let outcome = pieces.as_ref().map(|pieces| pieces.recv_timeout(PATIENCE));
                if !matches!(outcome, Some(Ok(Ok(_)) | Err(RecvTimeoutError::Timeout))) {
                    *pieces = None;
                }
                outcome
            });
            match received {
                // A token of which no character is complete yet.
                Some(Ok(Ok(piece))) if piece.is_empty() => py.check_signals()?,
                Some(Ok(Ok(piece))) => return Ok(Some(piece)),
                Some(Ok(Err(failure))) => return Err(failure.into()),
                Some(Err(RecvTimeoutError::Timeout)) => py.check_signals()?,
                Some(Err(RecvTimeoutError::Disconnected)) | None => return Ok(None),
            }
        }
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| *self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None);
    }
}

/// Language models in a smidgen of RAM.
#[pymodule]
fn smidgen(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Model>()?;
    module.add_class::<Stream>()
}
