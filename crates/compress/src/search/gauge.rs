//! How far a model has moved from the original: KL divergence of their predictions on some text, the original's kept.

use crate::damage::{kl, log_total};
use smidgen_core::engine::{Engine, Error};

/// The original's predictions on sequences of tokens.
#[derive(Clone, Debug)]
pub struct Gauge {
    sequences: Vec<Vec<u32>>,
    /// Tokens that pass through a model together.
    batch_tokens: usize,
    /// The original's logits, (positions of all sequences, n_vocab).
    logits: Vec<f32>,
    /// The logarithms of the sums of their exponentials, (positions of all sequences).
    totals: Vec<f64>,
}

impl Gauge {
    /// Keeps what the original in `engine` predicts at every position of `sequences`, of which each fits its context.
    ///
    /// # Errors
    /// The engine's.
    pub fn new(engine: &mut Engine<'_>, sequences: Vec<Vec<u32>>, batch_tokens: usize) -> Result<Self, Error> {
        let (mut logits, mut totals) = (Vec::new(), Vec::new());
        each_position(engine, &sequences, batch_tokens, |row| {
            logits.extend_from_slice(row);
            totals.push(log_total(row));
        })?;
        Ok(Gauge { sequences, batch_tokens, logits, totals })
    }

    /// The mean KL divergence, in nats, of the predictions of the model in `engine` from the original's.
    ///
    /// # Errors
    /// The engine's.
    pub fn kl(&self, engine: &mut Engine<'_>) -> Result<f64, Error> {
        let n_vocab = self.logits.len() / self.totals.len().max(1);
        let mut kept = self.logits.chunks_exact(n_vocab.max(1)).zip(&self.totals);
        let mut sum = 0.0;
        each_position(engine, &self.sequences, self.batch_tokens, |row| {
            if let Some((base, &total)) = kept.next() {
                sum += kl((base, total), (row, log_total(row)));
            }
        })?;
        Ok(sum / self.totals.len().max(1) as f64)
    }
}

/// Runs `sequences` and hands over the logits of every position, in order.
fn each_position(
    engine: &mut Engine<'_>,
    sequences: &[Vec<u32>],
    batch_tokens: usize,
    mut each: impl FnMut(&[f32]),
) -> Result<(), Error> {
    for sequence in sequences {
        engine.truncate(0);
        for batch in sequence.chunks(batch_tokens.max(1)) {
            engine.forward_each(batch, |_, row| each(row))?;
        }
    }
    Ok(())
}
