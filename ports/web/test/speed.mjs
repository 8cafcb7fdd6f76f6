// Tokens a second of modules, which take turns, as JSON: speed.mjs SMIDGEN.JS TOKENS ROUNDS MODEL,... NAME=WASM...
// Medians with the least and the most; ratios are to the first module.
import { readFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const PROMPT = 256;
const [library, tokens, rounds, models, ...modules] = process.argv.slice(2);
const { Smidgen } = await import(pathToFileURL(resolve(library)));

function perSecond(n, work) {
  const start = process.hrtime.bigint();
  work();
  return (n * 1e9) / Number(process.hrtime.bigint() - start);
}

/** One round: new tokens one by one, and a prompt in batches. */
function round({ smidgen, decode, prompt }) {
  const ids = Array.from({ length: Math.max(tokens, PROMPT) }, (_, i) => (i * 7 + 3) % smidgen.vocabulary);
  smidgen.truncate(0);
  decode.push(perSecond(Number(tokens), () => ids.slice(0, tokens).forEach((id) => smidgen.forward([id]))));
  smidgen.truncate(0);
  prompt.push(perSecond(PROMPT, () => smidgen.forward(ids.slice(0, PROMPT))));
}

const results = [];
for (const model of models.split(",")) {
  const runs = [];
  for (const [name, file] of modules.map((module) => module.split("="))) {
    const smidgen = await Smidgen.load(readFileSync(file));
    smidgen.open(readFileSync(model), { context: Math.max(tokens, PROMPT), batch: 16 });
    runs.push({ name, smidgen, decode: [], prompt: [] });
  }
  for (let i = 0; i <= rounds; i++) {
    runs.forEach(round);
  }
  for (const run of runs) {
    const row = { model: basename(model), module: run.name };
    for (const what of ["decode", "prompt"]) {
      // The first round is for the engine's compiler.
      const sorted = (values) => values.slice(1).sort((a, b) => a - b);
      const [ours, first] = [sorted(run[what]), sorted(runs[0][what])];
      const median = ours[ours.length >> 1];
      row[`${what}_tokens_per_s`] = [median, ours[0], ours.at(-1)].map(Math.round);
      row[`${what}_ratio`] = Number((median / first[first.length >> 1]).toFixed(2));
    }
    results.push(row);
  }
}
console.log(JSON.stringify(results, null, 1));
