// Tokens a second of modules, which take turns: speed.mjs SMIDGEN.JS MODEL TOKENS ROUNDS WASM... Ratios are to the first module.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const PROMPT = 256;
const [library, model, tokens, rounds, ...modules] = process.argv.slice(2);
const { Smidgen } = await import(pathToFileURL(resolve(library)));
const bytes = readFileSync(model);
const runs = [];
for (const file of modules) {
  const smidgen = await Smidgen.load(readFileSync(file));
  smidgen.open(bytes, { context: Math.max(Number(tokens), PROMPT), batch: 16 });
  runs.push({ file, smidgen, decode: [], prompt: [] });
}
const perSecond = (n, work) => {
  const start = process.hrtime.bigint();
  work();
  return (n * 1e9) / Number(process.hrtime.bigint() - start);
};
// The first round is for the engine's compiler.
for (let round = 0; round <= Number(rounds); round++) {
  for (const { smidgen, decode, prompt } of runs) {
    const id = (i) => (i * 7 + 3) % smidgen.vocabulary;
    smidgen.truncate(0);
    decode[round] = perSecond(Number(tokens), () => {
      for (let i = 0; i < Number(tokens); i++) {
        smidgen.forward([id(i)]);
      }
    });
    smidgen.truncate(0);
    const ids = Array.from({ length: PROMPT }, (_, i) => id(i));
    prompt[round] = perSecond(PROMPT, () => smidgen.forward(ids));
  }
}
const median = (values) => values.slice(1).sort((a, b) => a - b)[(values.length - 1) >> 1];
for (const { file, decode, prompt } of runs) {
  const say = (name, values, first) => `${name} ${median(values).toFixed(0)} tokens/s (${(median(values) / median(first)).toFixed(2)})`;
  console.log(`${file}: ${say("decode", decode, runs[0].decode)}, ${say("prompt", prompt, runs[0].prompt)}`);
}
