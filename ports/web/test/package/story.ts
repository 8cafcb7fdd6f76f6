// Who installs the package from npm: a strict program that tells a story and prints the proof, as every port does:
// story.js MODEL CONTEXT N PROMPT.
import { openAsBlob } from "node:fs";
import { readFile } from "node:fs/promises";
import { Smidgen, hasSimd, wasmUrl, type Limits, type Piece, type Plan, type Sampling } from "smidgen";

const [model = "", context, tokens, prompt = ""] = process.argv.slice(2);
const limits: Limits = { context: Number(context), cache: "f32", batch: 1 };
const greedy: Sampling = { temperature: 0, repeatPenalty: 1 };

// @ts-expect-error There is no such cache.
const wrong: Limits = { cache: "f64" };
// @ts-expect-error A seed is a number.
const wrongToo: Sampling = { seed: "7" };
void [wrong, wrongToo];

const named: boolean = hasSimd() === wasmUrl().pathname.endsWith("smidgen-simd.wasm");
if (!named || import.meta.resolve("smidgen/smidgen.wasm") !== new URL("smidgen.wasm", wasmUrl()).href) {
  throw new Error("the modules are not where the package says");
}
const engine: Smidgen = await Smidgen.load(await readFile(wasmUrl()));
const plan: Plan = await engine.openBlob(await openAsBlob(model), limits);
let [hash, nPrompt, nNew, text] = [0xcbf29ce484222325n, 0, 0, ""];
const pieces: Iterable<Piece> = engine.generate(prompt, { ...greedy, tokens: Number(tokens) });
for (const piece of pieces) {
  text += piece.text;
  for (const byte of new Uint8Array(piece.logits.buffer)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  piece.isNew ? nNew++ : nPrompt++;
}
console.log(`${text}\n[smidgen] tokens ${nPrompt} + ${nNew}, logits ${hash.toString(16).padStart(16, "0")}`);
const sum = plan.spans.reduce((sum, { bytes }) => sum + bytes, 0);
if (sum !== plan.totalBytes || engine.memoryBytes > plan.totalBytes) {
  throw new Error(`the parts of the plan are ${sum} bytes, ${plan.totalBytes} are planned, ${engine.memoryBytes} are used`);
}
