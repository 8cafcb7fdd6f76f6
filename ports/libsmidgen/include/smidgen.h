/* The engine for C: a model's bytes and one piece of memory in, tokens out; nothing is allocated. Written by cbindgen. */

#ifndef SMIDGEN_H
#define SMIDGEN_H

#include <stddef.h>
#include <stdint.h>

// What a function came to.
typedef enum smidgen_status {
  // It did what was asked.
  SMIDGEN_STATUS_DONE = 0,
  // A pointer is null, or a number is none that there is.
  SMIDGEN_STATUS_ARGUMENT = 1,
  // The bytes are no model that this library runs.
  SMIDGEN_STATUS_MODEL = 2,
  // The tokenizer of the model is not in order, or there is none.
  SMIDGEN_STATUS_TOKENIZER = 3,
  // The memory is smaller than `smidgen_memory_bytes` said.
  SMIDGEN_STATUS_MEMORY = 4,
  // The tokens do not fit the context, or are not in the vocabulary.
  SMIDGEN_STATUS_TOKENS = 5,
  // The text is no UTF-8, or longer than planned; or its tokens have no room.
  SMIDGEN_STATUS_TEXT = 6,
  // A weight is NaN or infinite.
  SMIDGEN_STATUS_NOT_FINITE = 7,
} smidgen_status;

// A model being run. `'static` stands for "as long as the caller leaves model and memory alone".
typedef struct smidgen_session smidgen_session;

// How much is planned for.
typedef struct smidgen_limits {
  // Positions kept: prompt and continuation together.
  uint32_t context_tokens;
  // Prompt tokens that share one pass over the weights.
  uint32_t batch_tokens;
  // Bytes of the longest text that is encoded at once.
  uint32_t text_bytes;
  // The most tokens that a draw chooses between (`top_k`).
  uint32_t candidates;
  // How keys and values are cached: 0 is F32, 1 is F16, 2 is Q8_0, 3 is Q4_0.
  uint32_t cache;
} smidgen_limits;

// One consumer of a session's memory.
typedef struct smidgen_span {
  // What it holds: `name_bytes` bytes of ASCII without a zero behind them, never freed.
  const char *name;
  // Bytes of the name.
  size_t name_bytes;
  // Bytes that it takes; 0 for what this model does without.
  size_t bytes;
} smidgen_span;

// How tokens are chosen.
typedef struct smidgen_sampling_params {
  // Logits are divided by this; 0 takes the likeliest token.
  float temperature;
  // The fewest largest probabilities that sum to at least this are kept; 1 keeps all.
  float top_p;
  // Probabilities below this share of the largest are dropped; 0 keeps all.
  float min_p;
  // Only this many of the largest logits are kept, and no more than `candidates` of the limits.
  uint32_t top_k;
  // The seed of the draw.
  uint64_t seed;
  // Logits of recent tokens are divided by this if positive and multiplied with it if negative; 1 for no change.
  float repeat_penalty;
  // How many of the last tokens, the prompt's among them, are recent.
  uint32_t repeat_last_n;
} smidgen_sampling_params;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Writes the bytes of memory that a session needs to `memory_bytes`.
//
// # Safety
// `model` points to `model_bytes` bytes, the others to one value each, or are null.
enum smidgen_status smidgen_memory_bytes(const uint8_t *model,
                                         size_t model_bytes,
                                         const struct smidgen_limits *wanted,
                                         size_t *memory_bytes);

// Lists what the memory of a session is for: up to `room` spans go to `spans`, and how many there are to `n_spans`. Together they
// are what [`smidgen_memory_bytes`] says.
//
// # Safety
// As [`smidgen_memory_bytes`]; `spans` points to room for `room` spans, `n_spans` to one number.
enum smidgen_status smidgen_spans(const uint8_t *model,
                                  size_t model_bytes,
                                  const struct smidgen_limits *wanted,
                                  struct smidgen_span *spans,
                                  size_t room,
                                  size_t *n_spans);

// Opens the model in `memory` and writes the session to `session`.
//
// # Safety
// As [`smidgen_memory_bytes`]; `memory` points to `memory_bytes` bytes that nobody else uses. Model and memory stay as they are
// until the session is used for the last time; then both belong to the caller again, and nothing needs to be closed.
enum smidgen_status smidgen_open(const uint8_t *model,
                                 size_t model_bytes,
                                 const struct smidgen_limits *wanted,
                                 uint8_t *memory,
                                 size_t memory_bytes,
                                 struct smidgen_session **session);

// How many tokens the vocabulary has: the length of the logits.
//
// # Safety
// `session` comes from [`smidgen_open`], and nobody else uses it meanwhile; this holds for every function below.
uint32_t smidgen_n_vocab(const struct smidgen_session *session);

// How many positions have been run.
//
// # Safety
// As [`smidgen_n_vocab`].
uint32_t smidgen_position(const struct smidgen_session *session);

// Forgets all but the first `n` positions, and begins a new text for [`smidgen_decode`] when `n` is 0.
//
// # Safety
// As [`smidgen_n_vocab`].
void smidgen_truncate(struct smidgen_session *session,
                      uint32_t n);

// Writes the tokens of a text of UTF-8 to `ids`, the one that begins a text first when `begins` is not 0; how many, to `n_ids`.
//
// # Safety
// As [`smidgen_n_vocab`]; `text` points to `text_bytes` bytes, `ids` to room for `room` tokens, `n_ids` to one number.
enum smidgen_status smidgen_encode(struct smidgen_session *session,
                                   const uint8_t *text,
                                   size_t text_bytes,
                                   int32_t begins,
                                   uint32_t *ids,
                                   size_t room,
                                   size_t *n_ids);

// Writes the text that token `id` adds, whole characters, to `text`; how many bytes, to `text_bytes`. What does not fit is left out.
//
// # Safety
// As [`smidgen_n_vocab`]; `text` points to `room` bytes, `text_bytes` to one number.
enum smidgen_status smidgen_decode(struct smidgen_session *session,
                                   uint32_t id,
                                   uint8_t *text,
                                   size_t room,
                                   size_t *text_bytes);

// Runs tokens at the next positions; the logits after the last of them, [`smidgen_n_vocab`] floats, are where `logits` then points,
// until the next call.
//
// # Safety
// As [`smidgen_n_vocab`]; `ids` points to `n_ids` tokens; `logits` to one pointer, or is null.
enum smidgen_status smidgen_forward(struct smidgen_session *session,
                                    const uint32_t *ids,
                                    size_t n_ids,
                                    const float **logits);

// Sets how [`smidgen_sample`] chooses from here on, and starts its random numbers anew.
//
// # Safety
// As [`smidgen_n_vocab`]; `sampling` points to one value.
enum smidgen_status smidgen_sampling(struct smidgen_session *session,
                                     const struct smidgen_sampling_params *sampling);

// Chooses a token by the logits of the last [`smidgen_forward`], which a penalty changes; 0 before there was one.
//
// # Safety
// As [`smidgen_n_vocab`].
uint32_t smidgen_sample(struct smidgen_session *session);

// Whether a text ends with token `id`: 1 or 0.
//
// # Safety
// As [`smidgen_n_vocab`].
int32_t smidgen_is_end(const struct smidgen_session *session, uint32_t id);

// What a status means, in words; the text ends with a zero and is never freed.
const char *smidgen_message(uint32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SMIDGEN_H */
