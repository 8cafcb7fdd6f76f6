// The model's thread: it opens models, keeps them in the browser's own files, and writes.
import { Smidgen, wasmUrl } from "./smidgen.js";
import { fetched, keep, list, openKept, remove } from "./models.js";

/** The engine for this browser, compiled once. */
let module;
/** The model that is open: its engine, its plan, how many positions it keeps, and what it is called. */
let open;
let isStopped = false;

/** Opens what is asked for: a file, a model that is kept, the one that is open once more, or the one that comes with the page. */
async function into(engine, { file, name, again, context }) {
  if (file) {
    return engine.openBlob(file, { context });
  }
  if (again && open) {
    const bytes = open.engine.modelBytes(open.plan);
    return engine.openFrom(bytes.length, (some, at) => some.set(bytes.subarray(at, at + some.length)), { context });
  }
  return name ? openKept(engine, name, { context }) : engine.openBlob(await fetched(), { context });
}

/** Opens a model in an engine of its own, so that the model before it is there until the new one is known to be good. */
async function openModel(request) {
  module ??= await WebAssembly.compileStreaming(fetch(wasmUrl()));
  const engine = await Smidgen.load(module);
  const plan = await into(engine, request);
  const { file, context } = request;
  const name = request.again ? open?.name ?? "" : file?.name ?? request.name ?? "";
  open = { engine, plan, context, name };
  let notKept;
  if (file) {
    await keep(name, engine.modelBytes(plan)).catch((error) => (notKept = error.message));
  }
  postMessage({ kind: "opened", plan, name, kept: await list(), notKept });
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
  isStopped = false;
  const { engine, context } = open;
  const start = performance.now();
  let [n, nNew] = [0, 0];
  for (const { text, isNew } of engine.generate(prompt, options)) {
    n++;
    nNew += isNew ? 1 : 0;
    postMessage({ kind: "piece", text, isNew });
    await breathe();
    if (isStopped) {
      break;
    }
  }
  const atEnd = engine.position >= context ? "full" : "ended";
  const why = isStopped ? "stopped" : nNew === options.tokens ? "done" : atEnd;
  postMessage({ kind: "written", n, seconds: (performance.now() - start) / 1000, memoryBytes: engine.memoryBytes, why });
}

async function forget({ name }) {
  await remove(name);
  postMessage({ kind: "removed", name, kept: await list() });
}

const JOBS = { open: openModel, write, remove: forget };
/** Jobs wait for the one before them. */
let last = Promise.resolve();

onmessage = ({ data }) => {
  // Who wants another model does not want the rest of the text.
  isStopped ||= data.kind === "stop" || data.kind === "open";
  const job = JOBS[data.kind];
  if (job) {
    last = last.then(() => job(data)).catch((error) => postMessage({ kind: "failed", of: data.kind, message: error.message }));
  }
};
