/** Sizes that a session is planned for. */
export interface Limits {
  /** Positions kept: prompt and continuation together (256). */
  context?: number;
  /** Prompt tokens that share one pass over the weights (16). */
  batch?: number;
  /** Bytes of the longest text that is encoded (4096). */
  textBytes?: number;
  /** The most tokens that a draw chooses between (256). */
  candidates?: number;
  /** How keys and values are cached ("f32"). */
  cache?: "f32" | "f16" | "q8_0" | "q4_0";
}

/** How tokens are chosen. */
export interface Sampling {
  /** 0 takes the likeliest token (0.8). */
  temperature?: number;
  /** Only this many of the largest logits are kept, at most `candidates` of the limits; 0 keeps as many as those (40). */
  topK?: number;
  /** The fewest largest probabilities that sum to at least this are kept; 1 keeps all (0.95). */
  topP?: number;
  /** Probabilities below this share of the largest are dropped; 0 keeps all (0.05). */
  minP?: number;
  /** Makes tokens that were just used less likely by this factor; 1 does nothing (1). */
  repeatPenalty?: number;
  /** How many of the last tokens the penalty looks at (64). */
  repeatLastN?: number;
  /** The seed of the draw: the same seed, the same text. */
  seed?: number | bigint;
}

/** One consumer of memory. */
export interface Span {
  /** What it holds. */
  name: string;
  bytes: number;
}

/** What a session takes. */
export interface Plan {
  /** Everything that linear memory is for; the bytes sum to `totalBytes`. */
  spans: Span[];
  /** Bytes of the model. */
  modelBytes: number;
  /** Bytes of buffers, cache and tokenizer. */
  sessionBytes: number;
  /** Bytes of the program and its stack. */
  programBytes: number;
  /** Bytes of linear memory in all, whole pages. */
  totalBytes: number;
}

/** One token and what it adds. */
export interface Piece {
  id: number;
  text: string;
  /** The logits after this token. */
  logits: Float32Array;
  /** Whether it is no token of the prompt. */
  isNew: boolean;
}

/** Whether this engine runs `smidgen-simd.wasm`. */
export function hasSimd(): boolean;

/** Where the module that this engine runs lies, beside `smidgen.js`. */
export function wasmUrl(): URL;

/** A model in WebAssembly. */
export class Smidgen {
  static load(wasm: BufferSource | WebAssembly.Module): Promise<Smidgen>;
  readonly memoryBytes: number;
  readonly vocabulary: number;
  readonly position: number;
  plan(model: Uint8Array, limits?: Limits): Plan;
  open(model: Uint8Array, limits?: Limits): Plan;
  /** Opens a model that `read` puts into linear memory a chunk at a time: `bytes` is to be filled with the file from byte `at` on. */
  openFrom(
    modelBytes: number,
    read: (bytes: Uint8Array, at: number) => void | Promise<void>,
    limits?: Limits,
  ): Promise<Plan>;
  /** Opens a model from a file or any other blob, without a copy of it beside linear memory. */
  openBlob(blob: Blob, limits?: Limits): Promise<Plan>;
  /** The bytes of the open model where they lie: a view that is good until the next call. */
  modelBytes(plan: Plan): Uint8Array;
  truncate(n?: number): void;
  encode(text: string, begins?: boolean): number[];
  decode(id: number): string;
  forward(ids: number[]): Float32Array;
  sampling(how?: Sampling): void;
  sample(): number;
  isEnd(id: number): boolean;
  generate(prompt: string, options?: Sampling & { tokens?: number }): Generator<Piece, void>;
}
