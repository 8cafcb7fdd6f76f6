//! What `ports/teller` does on a board, on a desktop: what every board must print.
//!
//! `teller MODEL CONTEXT N CACHE PROMPT`, where CACHE is a type of key-value cache (`f32`, `f16`, `q8_0`, `q4_0`).

use smidgen_teller::{Board, CacheType, Layer, Limits, Request, memory_bytes, n_layers, perform};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

struct Desktop {
    start: Instant,
}

impl Board for Desktop {
    fn write(&mut self, text: &[u8]) {
        // When nobody listens any more there is nobody to tell.
        let _ = std::io::stdout().write_all(text);
    }

    fn nanoseconds(&mut self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

fn main() -> ExitCode {
    match told() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn told() -> Result<bool, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, context, n_new, cache, prompt] = words.as_slice() else {
        return Err("usage: teller MODEL CONTEXT N CACHE PROMPT".into());
    };
    let number = |word: &String| word.parse::<usize>().map_err(|_| format!("{word}: not a number"));
    let model = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let cache = CacheType::from_name(cache).ok_or(format!("{cache}: no type of cache"))?;
    let limits = Limits {
        context_tokens: number(context)?,
        batch_tokens: 1,
        n_threads: 1,
        cache_k: cache,
        cache_v: cache,
        keeps_all: false,
    };
    let request = Request { model: &model, prompt, limits, n_new: number(n_new)? };
    let refused = |error| format!("{path}: {error}");
    let n_layers = n_layers(&request).map_err(refused)?;
    let n_bytes = memory_bytes(&request, &mut vec![Layer::EMPTY; n_layers]).map_err(refused)?;
    let mut board = Desktop { start: Instant::now() };
    Ok(perform(&request, &mut board, &mut vec![Layer::EMPTY; n_layers], &mut vec![0; n_bytes]))
}
