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
  topK?: number;
  topP?: number;
  minP?: number;
  /** The seed of the draw: the same seed, the same text. */
  seed?: number | bigint;
}

/** What a session takes. */
export interface Plan {
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

/** A model in WebAssembly. */
export class Smidgen {
  static load(wasm: BufferSource | WebAssembly.Module): Promise<Smidgen>;
  readonly memoryBytes: number;
  readonly vocabulary: number;
  readonly position: number;
  plan(model: Uint8Array, limits?: Limits): Plan;
  open(model: Uint8Array, limits?: Limits): Plan;
  truncate(n?: number): void;
  encode(text: string, begins?: boolean): number[];
  decode(id: number): string;
  forward(ids: number[]): Float32Array;
  sampling(how?: Sampling): void;
  sample(): number;
  isEnd(id: number): boolean;
  generate(prompt: string, options?: Sampling & { tokens?: number }): Generator<Piece, void>;
}
