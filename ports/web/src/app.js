// The page: what is chosen goes to the worker, what the worker writes is shown.

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const element = (id) => document.getElementById(id);
const [file, kept, write, stop, text, state] = ["file", "kept", "write", "stop", "text", "state"].map(element);
const COLOURS = ["#b5532a", "#2a7fb5", "#4f9a3c"];
let source = {};

function number(id) {
  return Number(element(id).value);
}

function bytes(n) {
  return n < 1 << 20 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / (1 << 20)).toFixed(2)} MiB`;
}

function open(from) {
  source = from;
  write.disabled = true;
  element("model").textContent = "Opening the model.";
  worker.postMessage({ kind: "open", ...from, context: number("context") });
}

function showPlan(plan) {
  const rows = [["program and stack", plan.programBytes], ["model", plan.modelBytes], ["buffers, cache, tokenizer", plan.sessionBytes]];
  element("map").replaceChildren(...rows.map(([name, n], i) => {
    const part = document.createElement("div");
    part.style.cssText = `flex: ${n}; background: ${COLOURS[i]}`;
    part.title = `${name}: ${bytes(n)}`;
    return part;
  }));
  element("map").setAttribute("aria-label", rows.map(([name, n]) => `${name} ${bytes(n)}`).join(", "));
  element("plan").replaceChildren(...[...rows, ["in all", plan.totalBytes]].map(([name, n]) => {
    const row = document.createElement("tr");
    row.append(...[name, bytes(n)].map((value) => Object.assign(document.createElement("td"), { textContent: value })));
    return row;
  }));
}

const SHOWN = {
  opened({ plan, name, names }) {
    const options = names.map((each) => new Option(each, each, false, each === name));
    kept.replaceChildren(new Option("the built-in model", "", false, name === ""), ...options);
    element("model").textContent = `${name || "The built-in model"} is open.`;
    showPlan(plan);
    write.disabled = false;
  },
  piece({ text: piece, isNew }) {
    const part = document.createElement("span");
    part.textContent = piece;
    part.className = isNew ? "new" : "";
    text.append(part);
  },
  written({ n, seconds, memoryBytes, stopped }) {
    state.textContent = `${stopped ? "Stopped after" : "Done:"} ${n} tokens in ${seconds.toFixed(2)} s, ${bytes(memoryBytes)} of memory.`;
    idle(true);
  },
  failed({ message }) {
    state.textContent = `That did not work: ${message}.`;
    idle(element("plan").rows?.length > 0 || element("plan").children.length > 0);
  },
};

function idle(isReady) {
  write.disabled = !isReady;
  stop.disabled = true;
}

worker.onmessage = ({ data }) => SHOWN[data.kind](data);

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  text.replaceChildren();
  state.textContent = "Writing.";
  [write.disabled, stop.disabled] = [true, false];
  const options = { tokens: number("tokens"), temperature: number("temperature"), topK: number("topK"), topP: number("topP"), seed: number("seed") };
  worker.postMessage({ kind: "write", prompt: element("prompt").value, options });
});
stop.addEventListener("click", () => worker.postMessage({ kind: "stop" }));
file.addEventListener("change", () => file.files[0] && open({ file: file.files[0] }));
kept.addEventListener("change", () => open({ name: kept.value }));
element("context").addEventListener("change", () => open(source.file ? { name: source.file.name } : source));

for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    const dropped = kind === "drop" ? event.dataTransfer.files[0] : undefined;
    if (dropped) {
      open({ file: dropped });
    }
  });
}

// Everything that the page is made of is kept, so that it also opens without a network.
navigator.serviceWorker?.register("offline.js").catch(() => {});
open({});
