// Tells a story in node and prints the proof, as every port does: story.mjs SMIDGEN.JS WASM MODEL CONTEXT N CACHE PROMPT.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [library, wasm, model, context, tokens, cache, prompt] = process.argv.slice(2);
const { Smidgen } = await import(pathToFileURL(resolve(library)));
const smidgen = await Smidgen.load(readFileSync(wasm));
const plan = smidgen.open(readFileSync(model), { context: Number(context), cache, batch: 1 });
let [hash, nPrompt, nNew, text] = [0xcbf29ce484222325n, 0, 0, ""];
for (const piece of smidgen.generate(prompt, { tokens: Number(tokens), temperature: 0 })) {
  text += piece.text;
  for (const byte of new Uint8Array(piece.logits.buffer)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  piece.isNew ? nNew++ : nPrompt++;
}
console.log(`${text}\n[smidgen] tokens ${nPrompt} + ${nNew}, logits ${hash.toString(16).padStart(16, "0")}`);
console.log(`[smidgen] planned ${plan.totalBytes} bytes, used ${smidgen.memoryBytes} bytes`);
const sum = plan.spans.reduce((sum, { bytes }) => sum + bytes, 0);
if (smidgen.memoryBytes > plan.totalBytes || sum !== plan.totalBytes) {
  throw new Error(`${smidgen.memoryBytes} bytes are used, ${plan.totalBytes} planned, and the parts of the plan are ${sum}`);
}
// A draw with a seed is the same draw again.
const draw = () => Array.from(smidgen.generate(prompt, { tokens: 12, temperature: 0.9, seed: 7 }), (piece) => piece.id).join(" ");
if (draw() !== draw()) {
  throw new Error("the same seed drew other tokens");
}
// A penalty that large leaves no token to be drawn twice.
const penalized = Array.from(smidgen.generate(prompt, { tokens: 12, temperature: 0, repeatPenalty: 1e6 }), (piece) => piece.id);
if (new Set(penalized).size !== penalized.length) {
  throw new Error(`a token was drawn again: ${penalized}`);
}
// What is no model is refused, and the one that was open before is not there any more.
let refused = false;
try {
  smidgen.open(new Uint8Array(100));
} catch {
  refused = true;
}
if (!refused) {
  throw new Error("a hundred zeros were taken for a model");
}
