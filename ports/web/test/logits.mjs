// Compares every bit of the logits of a prompt with those of a .npy file: logits.mjs SMIDGEN.JS WASM MODEL IDS NPY.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [library, wasm, model, ids, npy] = process.argv.slice(2);
const { Smidgen } = await import(pathToFileURL(resolve(library)));
const smidgen = await Smidgen.load(readFileSync(wasm));
const prompt = ids.split(" ").map(Number);
smidgen.open(readFileSync(model), { context: prompt.length + 1, batch: 8 });
// The numbers stand at the end of the file, a row for each position.
const wanted = readFileSync(npy).subarray(-4 * smidgen.vocabulary * prompt.length);
const row = (i) => wanted.subarray(4 * smidgen.vocabulary * i, 4 * smidgen.vocabulary * (i + 1));
const last = prompt.length - 1;
const compare = (logits, position) => {
  if (Buffer.compare(Buffer.from(logits.buffer), row(position)) !== 0) {
    throw new Error(`the logits of position ${position} are others`);
  }
};
prompt.forEach((id, position) => compare(smidgen.forward([id]), position));
// The same in batches.
smidgen.truncate(0);
compare(smidgen.forward(prompt), last);
