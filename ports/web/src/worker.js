// The model's thread: it opens models, keeps them in the browser's own files, and writes.
import { Smidgen, hasSimd } from "./smidgen.js";

let module;
let smidgen;
let stopped = false;

/** The engine for this browser, compiled once. */
async function compiled() {
  const name = hasSimd() ? "smidgen-simd.wasm" : "smidgen.wasm";
  module ??= WebAssembly.compileStreaming(fetch(new URL(name, import.meta.url)));
  return module;
}

/** The folder of the models that were opened before; none where the browser has no files of its own. */
async function kept() {
  try {
    return await (await navigator.storage.getDirectory()).getDirectoryHandle("models", { create: true });
  } catch {
    return null;
  }
}

async function names() {
  const folder = await kept();
  const found = [];
  for await (const name of folder?.keys() ?? []) {
    found.push(name);
  }
  return found.sort();
}

async function keep(name, bytes) {
  const folder = await kept();
  if (folder) {
    const file = await (await folder.getFileHandle(name, { create: true })).createWritable();
    await file.write(bytes);
    await file.close();
  }
}

async function bytesOf({ file, name }) {
  if (file) {
    return new Uint8Array(await file.arrayBuffer());
  }
  if (name) {
    const handle = await (await kept()).getFileHandle(name);
    return new Uint8Array(await (await handle.getFile()).arrayBuffer());
  }
  return new Uint8Array(await (await fetch(new URL("model.gguf", import.meta.url))).arrayBuffer());
}

async function open(request) {
  const bytes = await bytesOf(request);
  // A new memory for each model, so that a large one before it takes none.
  smidgen = await Smidgen.load(await compiled());
  const plan = smidgen.open(bytes, { context: request.context });
  if (request.file) {
    await keep(request.file.name, bytes);
  }
  postMessage({ kind: "opened", plan, name: request.file?.name ?? request.name ?? "", names: await names() });
}

/** Lets a message come in between two tokens. */
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}

async function write({ prompt, options }) {
  stopped = false;
  const start = performance.now();
  let n = 0;
  for (const { text, isNew } of smidgen.generate(prompt, options)) {
    n++;
    postMessage({ kind: "piece", text, isNew });
    await breathe();
    if (stopped) {
      break;
    }
  }
  postMessage({ kind: "written", n, seconds: (performance.now() - start) / 1000, memoryBytes: smidgen.memoryBytes, stopped });
}

const JOBS = { open, write, stop: () => (stopped = true) };

onmessage = async ({ data }) => {
  try {
    await JOBS[data.kind](data);
  } catch (error) {
    postMessage({ kind: "failed", message: error.message });
  }
};
