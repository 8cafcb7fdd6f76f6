// The engine in WebAssembly: the functions of libsmidgen, over one linear memory that holds the program, the model and a session.

/** What a status of libsmidgen means. */
const MESSAGES = [
  "done",
  "a number is none that there is",
  "the bytes are no model that this library runs",
  "the tokenizer of the model is not in order, or there is none",
  "the memory is smaller than planned",
  "the tokens do not fit the context, or are not in the vocabulary",
  "the text is longer than planned, or its tokens have no room",
  "a weight is NaN or infinite",
];
const CACHES = ["f32", "f16", "q8_0", "q4_0"];
const PAGE_BYTES = 65536;
const ALIGN = 64;
/** Bytes for the arguments and results of one call: limits, sampling, numbers, a piece of text. */
const SLOT_BYTES = 4096;
const PIECE_BYTES = 1024;
/** Where in the slot a number that a call gives back lies, and where longer results begin. */
const [OUT, ROOM] = [64, 128];
const SPAN_BYTES = 12;
const ADDRESSABLE_BYTES = 2 ** 32;
/** Bytes of a model that are in flight while it is read into linear memory. */
const CHUNK_BYTES = 1 << 20;

/** The first bytes of every GGUF file. */
const MAGIC = "GGUF";

/** A module of three instructions with a vector among them: an engine without simd128 refuses it. */
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);

/** Whether this engine runs `smidgen-simd.wasm`. */
export function hasSimd() {
  return WebAssembly.validate(SIMD_PROBE);
}

/** Where the module for this engine lies: beside this file. */
export function wasmUrl() {
  return hasSimd() ? new URL("smidgen-simd.wasm", import.meta.url) : new URL("smidgen.wasm", import.meta.url);
}

function check(status) {
  if (status !== 0) {
    throw new Error(MESSAGES[status] ?? `status ${status}`);
  }
}

function roundUp(n) {
  return Math.ceil(n / ALIGN) * ALIGN;
}

export class Smidgen {
  #wasm;
  #slot;
  #model;
  #session = 0;
  #limits;
  /** Where a text that is encoded lies, and behind it room for its tokens. */
  #text = 0;

  /** An engine from the bytes of `smidgen.wasm` or `smidgen-simd.wasm`, or from a compiled module. */
  static async load(wasm) {
    const made = await WebAssembly.instantiate(wasm, {});
    return new Smidgen((made.instance ?? made).exports);
  }

  constructor(exports) {
    this.#wasm = exports;
    this.#slot = roundUp(exports.__heap_base.value);
    this.#model = this.#slot + SLOT_BYTES;
  }

  /** Bytes of linear memory in use: program, model and session. */
  get memoryBytes() {
    return this.#wasm.memory.buffer.byteLength;
  }

  #reserve(end) {
    const missing = end - this.memoryBytes;
    if (missing <= 0) {
      return;
    }
    try {
      this.#wasm.memory.grow(Math.ceil(missing / PAGE_BYTES));
    } catch {
      throw new Error(`this takes ${Math.ceil(end / 2 ** 20)} MiB of memory, which is not to be had here`);
    }
  }

  #view() {
    return new DataView(this.#wasm.memory.buffer);
  }

  #bytes(at, length) {
    return new Uint8Array(this.#wasm.memory.buffer, at, length);
  }

  #writeLimits({ context = 256, batch = 16, textBytes = 4096, candidates = 256, cache = "f32" } = {}) {
    const kind = CACHES.indexOf(cache);
    if (kind < 0) {
      throw new Error(`cache: ${CACHES.join(", ")}, not ${cache}`);
    }
    const view = this.#view();
    [context, batch, textBytes, candidates, kind].forEach((n, i) => view.setUint32(this.#slot + 4 * i, n, true));
    this.#limits = { context, textBytes };
  }

  /** Makes room for a model; what was open before is there no more. */
  #expect(modelBytes) {
    this.#session = 0;
    if (!(this.#model + modelBytes < ADDRESSABLE_BYTES)) {
      throw new Error("the model is larger than WebAssembly can address");
    }
    this.#reserve(this.#model + modelBytes);
  }

  #plan(modelBytes, limits) {
    this.#writeLimits(limits);
    const [slot, room, out] = [this.#slot, this.#slot + ROOM, this.#slot + OUT];
    const most = Math.floor((SLOT_BYTES - ROOM) / SPAN_BYTES);
    check(this.#wasm.smidgen_spans(this.#model, modelBytes, slot, room, most, out));
    const [view, ascii] = [this.#view(), new TextDecoder()];
    const spans = [{ name: "program's data and stack", bytes: this.#slot }, { name: "arguments of calls", bytes: SLOT_BYTES }];
    spans.push({ name: "model", bytes: modelBytes });
    let sessionBytes = 0;
    for (let i = 0; i < view.getUint32(out, true); i++) {
      const [name, length, bytes] = [0, 4, 8].map((field) => view.getUint32(room + SPAN_BYTES * i + field, true));
      sessionBytes += bytes;
      if (bytes > 0) {
        spans.push({ name: ascii.decode(this.#bytes(name, length)), bytes });
      }
    }
    this.#text = roundUp(roundUp(this.#model + modelBytes) + sessionBytes);
    const textBytes = roundUp(this.#limits.textBytes) + 4 * (this.#limits.context + 1);
    const totalBytes = Math.ceil((this.#text + textBytes) / PAGE_BYTES) * PAGE_BYTES;
    spans.push({ name: "a text and its tokens", bytes: textBytes });
    const sum = spans.reduce((sum, { bytes }) => sum + bytes, 0);
    spans.push({ name: "alignment, up to a whole page", bytes: totalBytes - sum });
    return { modelBytes, sessionBytes, programBytes: this.#model, totalBytes, spans };
  }

  #start(plan) {
    const memory = roundUp(this.#model + plan.modelBytes);
    this.#reserve(plan.totalBytes);
    const out = this.#slot + OUT;
    check(this.#wasm.smidgen_open(this.#model, plan.modelBytes, this.#slot, memory, plan.sessionBytes, out));
    this.#session = this.#view().getUint32(out, true);
    return plan;
  }

  /**
   * Puts a model (a GGUF file, little-endian) into memory and plans for it: a name and bytes for each thing that takes memory, and
   * the sums. Nothing is run yet.
   */
  plan(model, limits) {
    this.#expect(model.byteLength);
    this.#bytes(this.#model, model.byteLength).set(model);
    return this.#plan(model.byteLength, limits);
  }

  /** Plans for a model and opens it. */
  open(model, limits) {
    return this.#start(this.plan(model, limits));
  }

  /**
   * Opens a model of `modelBytes` bytes that `read(bytes, at)` puts where they are needed, a chunk at a time: the file is nowhere
   * else in memory. What does not begin like a GGUF file is refused after the first few bytes.
   */
  async openFrom(modelBytes, read, limits) {
    this.#expect(Math.min(modelBytes, MAGIC.length));
    const magic = this.#bytes(this.#model, Math.min(modelBytes, MAGIC.length));
    await read(magic, 0);
    if (new TextDecoder().decode(magic) !== MAGIC) {
      check(2);
    }
    this.#expect(modelBytes);
    for (let at = 0; at < modelBytes; at += CHUNK_BYTES) {
      await read(this.#bytes(this.#model + at, Math.min(CHUNK_BYTES, modelBytes - at)), at);
    }
    return this.#start(this.#plan(modelBytes, limits));
  }

  /** Opens a model from a file or any other blob, without a copy of it beside linear memory. */
  openBlob(blob, limits) {
    const read = async (bytes, at) => bytes.set(new Uint8Array(await blob.slice(at, at + bytes.length).arrayBuffer()));
    return this.openFrom(blob.size, read, limits);
  }

  /** The bytes of the model that is open, as they lie in linear memory: to be read at once, and not to be changed. */
  modelBytes(plan) {
    return this.#bytes(this.#model, plan.modelBytes);
  }

  /** Tokens of the vocabulary. */
  get vocabulary() {
    return this.#wasm.smidgen_n_vocab(this.#session);
  }

  /** Positions that have been run. */
  get position() {
    return this.#wasm.smidgen_position(this.#session);
  }

  /** Forgets all but the first `n` positions. */
  truncate(n = 0) {
    this.#wasm.smidgen_truncate(this.#session, n);
  }

  /** The tokens of a text; the token that begins one stands first unless `begins` is false. */
  encode(text, begins = true) {
    const bytes = new TextEncoder().encode(text);
    if (bytes.length > this.#limits.textBytes) {
      throw new Error(MESSAGES[6]);
    }
    const [room, ids] = [this.#limits.context + 1, this.#text + roundUp(this.#limits.textBytes)];
    this.#bytes(this.#text, bytes.length).set(bytes);
    const out = this.#slot + OUT;
    check(this.#wasm.smidgen_encode(this.#session, this.#text, bytes.length, begins ? 1 : 0, ids, room, out));
    const n = this.#view().getUint32(out, true);
    return Array.from(new Uint32Array(this.#wasm.memory.buffer, ids, n));
  }

  /** The text that a token adds; a character that is not whole yet waits for the next one. */
  decode(id) {
    const [text, out] = [this.#slot + ROOM, this.#slot + OUT];
    check(this.#wasm.smidgen_decode(this.#session, id, text, PIECE_BYTES, out));
    return new TextDecoder().decode(this.#bytes(text, this.#view().getUint32(out, true)));
  }

  /** Runs tokens at the next positions and gives the logits after the last, a copy of them. */
  forward(ids) {
    const [room, out] = [this.#slot + ROOM, this.#slot + OUT];
    const most = (SLOT_BYTES - ROOM) / 4;
    for (let first = 0; first < ids.length; first += most) {
      const some = ids.slice(first, first + most);
      new Uint32Array(this.#wasm.memory.buffer, room, some.length).set(some);
      check(this.#wasm.smidgen_forward(this.#session, room, some.length, out));
    }
    return new Float32Array(this.#wasm.memory.buffer, this.#view().getUint32(out, true), this.vocabulary).slice();
  }

  /** Sets how tokens are chosen, by default as the command does; a temperature of 0 takes the likeliest. */
  sampling({ temperature = 0.8, topK = 40, topP = 0.95, minP = 0.05, repeatPenalty = 1, repeatLastN = 64, seed = 0 } = {}) {
    const view = this.#view();
    [temperature, topP, minP].forEach((x, i) => view.setFloat32(this.#slot + 4 * i, x, true));
    view.setUint32(this.#slot + 12, topK, true);
    view.setBigUint64(this.#slot + 16, BigInt(seed), true);
    view.setFloat32(this.#slot + 24, repeatPenalty, true);
    view.setUint32(this.#slot + 28, repeatLastN, true);
    check(this.#wasm.smidgen_sampling(this.#session, this.#slot));
  }

  /** The next token, by the logits of the last pass. */
  sample() {
    return this.#wasm.smidgen_sample(this.#session) >>> 0;
  }

  /** Whether a text ends with this token. */
  isEnd(id) {
    return this.#wasm.smidgen_is_end(this.#session, id) !== 0;
  }

  /** Continues a text: yields the prompt's pieces and then each new token's, `{ id, text, logits }`, until `tokens` or an end. */
  *generate(prompt, { tokens = 64, ...sampling } = {}) {
    this.truncate(0);
    this.sampling(sampling);
    const ids = this.encode(prompt);
    let next = 0;
    for (let i = 0; i < ids.length + tokens; i++) {
      const isNew = i >= ids.length;
      if (isNew && (this.isEnd(next) || this.position >= this.#limits.context)) {
        return;
      }
      const id = isNew ? next : ids[i];
      const text = this.decode(id);
      const logits = this.forward([id]);
      // Nothing is drawn within the prompt: a seed gives the text that the command gives.
      if (i + 1 >= ids.length) {
        next = this.sample();
      }
      yield { id, text, logits, isNew };
    }
  }
}
