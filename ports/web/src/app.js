// The page: what is chosen goes to the worker, what the worker writes is shown.
import { bytes, inWords, showModels, showPlan } from "./view.js";

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const element = (id) => document.getElementById(id);
const [form, file, write, stop, text, spoken, state, model] = ["form", "file", "write", "stop", "text", "spoken", "state", "model"].map(element);
const SAMPLING = ["tokens", "temperature", "topK", "topP", "minP", "repeatPenalty", "repeatLastN", "seed"];
const WHY = {
  done: "Done",
  ended: "Done, the text came to its end",
  full: "Done, the context is full",
  stopped: "Stopped",
};
/** What the model that is open is called, the built-in one nothing, and what is being opened. */
let [current, asked] = [undefined, {}];
/** Text that is written but not yet read out: screen readers get whole sentences, not tokens. */
let unspoken = "";

const title = (name) => name || "The built-in model";

function ready(isReady) {
  const hadFocus = document.activeElement === stop;
  [write.disabled, stop.disabled] = [!isReady, true];
  // A button that is disabled would lose the keyboard's place.
  if (hadFocus) {
    write.focus();
  }
  text.setAttribute("aria-busy", "false");
}

/** What a browser says, to be put into a sentence. */
const said = (message) => message.replace(/\.$/, "");

function open(from) {
  asked = from;
  ready(false);
  model.textContent = `Opening ${title(from.name)}.`;
  worker.postMessage({ kind: "open", ...from, context: Number(element("context").value) });
}

const openFile = (file) => open({ file, name: file.name });
const again = () => open({ again: true, name: current ?? "" });
const actions = {
  open: (name) => open({ name }),
  remove: (name) => worker.postMessage({ kind: "remove", name }),
};

/** Reads out what is written up to the last sentence that is whole, or all of it. */
function speak(isAll) {
  const end = isAll ? unspoken.length : Math.max(...[".", "!", "?", "\n"].map((mark) => unspoken.lastIndexOf(mark))) + 1;
  if (end > 0) {
    spoken.textContent = unspoken.slice(0, end);
    unspoken = unspoken.slice(end);
  }
}

const SHOWN = {
  opened({ plan, name, kept, notKept }) {
    current = name;
    showModels(element("models"), kept, current, actions);
    model.textContent = `${title(name)} is open${notKept ? `, but not kept in this browser: ${said(notKept)}` : ""}.`;
    showPlan(plan);
    ready(true);
  },
  removed({ name, kept }) {
    showModels(element("models"), kept, current, actions);
    model.textContent = `${name} is not kept any more.`;
  },
  piece({ text: piece, isNew }) {
    text.append(Object.assign(document.createElement("span"), { textContent: piece, className: isNew ? "new" : "" }));
    unspoken += piece;
    speak(false);
  },
  written({ n, seconds, memoryBytes, why }) {
    speak(true);
    state.replaceChildren(`${WHY[why]}: ${n} tokens in ${seconds.toFixed(2)} s, `, bytes(memoryBytes), " of memory.");
    ready(true);
  },
  failed({ of, message }) {
    if (of === "open") {
      const still = current === undefined ? "" : ` ${title(current)} is still open.`;
      model.textContent = `${title(asked.name)} was not opened: ${said(message)}.${still}`;
    } else {
      state.textContent = `That did not work: ${said(message)}.`;
    }
    ready(current !== undefined);
  },
};

worker.onmessage = ({ data }) => SHOWN[data.kind](data);
worker.onerror = () => SHOWN.failed({ of: "open", message: "this browser does not run the engine" });

form.addEventListener("submit", (event) => {
  event.preventDefault();
  text.replaceChildren();
  [unspoken, spoken.textContent] = ["", ""];
  state.textContent = "Writing.";
  stop.disabled = false;
  if (document.activeElement === write) {
    stop.focus();
  }
  write.disabled = true;
  text.setAttribute("aria-busy", "true");
  const options = Object.fromEntries(SAMPLING.map((id) => [id, Number(element(id).value)]));
  worker.postMessage({ kind: "write", prompt: element("prompt").value, options });
});
stop.addEventListener("click", () => worker.postMessage({ kind: "stop" }));
file.addEventListener("change", () => {
  if (file.files[0]) {
    openFile(file.files[0]);
  }
  // The same file can be chosen again.
  file.value = "";
});
element("context").addEventListener("change", (event) => event.target.reportValidity() && again());

for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) {
      return;
    }
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) {
      openFile(event.dataTransfer.files[0]);
    }
  });
}

// Everything that the page is made of is kept, so that it also opens without a network.
navigator.serviceWorker?.register("offline.js").catch(() => {});
navigator.serviceWorker?.ready.then(() => (element("offline").textContent = "It is ready to be used without a network."));
open({ name: "" });
