// A headless Chromium over its debugging pipe, and a server for the folder of the page; nothing from npm is needed.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";

const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm" };
const WAIT_MS = 60000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Serves `folder`; `asked` lists what was asked for, by whomever. */
export async function serve(folder) {
  const asked = [];
  const server = createServer((request, response) => {
    const name = normalize(new URL(request.url, "http://page").pathname).replace(/\/$/, "/index.html");
    asked.push(name);
    try {
      const bytes = readFileSync(join(folder, name));
      response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" }).end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const stop = () => {
    server.close();
    server.closeAllConnections();
  };
  return { address: `http://127.0.0.1:${server.address().port}/`, asked, stop };
}

/** Starts a browser: `send` calls a method of the DevTools protocol, `listen` hears its events. */
export function start(chromium) {
  const profile = mkdtempSync(join(tmpdir(), "smidgen-page-"));
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"];
  const browser = spawn(chromium, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  let [lastId, received] = [0, Buffer.alloc(0)];
  const waiting = new Map();
  const listeners = [];
  const answer = (message) => {
    if (message.id === undefined) {
      listeners.forEach((listener) => listener(message));
      return;
    }
    const { resolve, reject } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    message.error ? reject?.(new Error(message.error.message)) : resolve?.(message.result);
  };
  // JSON messages, each ended by a zero.
  browser.stdio[4].on("data", (data) => {
    received = Buffer.concat([received, data]);
    for (let end; (end = received.indexOf(0)) >= 0; received = received.subarray(end + 1)) {
      answer(JSON.parse(received.subarray(0, end).toString()));
    }
  });
  const send = (method, params = {}, sessionId = undefined) => {
    const id = ++lastId;
    browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  };
  const stop = async () => {
    browser.kill();
    await new Promise((resolve) => (browser.exitCode ?? browser.signalCode) === null ? browser.once("exit", resolve) : resolve());
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  };
  return { send, listen: (listener) => listeners.push(listener), stop };
}

/** What a person does at a page, and what is seen of it. */
export class Page {
  /** Sessions of the page's workers, the newest last; and what the page asked the network for. */
  workers = [];
  requests = [];
  /** What went wrong in the page without being shown there. */
  complaints = [];

  static async open(browser) {
    const { targetId } = await browser.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page();
    page.call = (method, params) => browser.send(method, params, sessionId);
    page.callWorker = (method, params) => browser.send(method, params, page.workers.at(-1));
    browser.listen(({ method, params }) => {
      if (method === "Target.attachedToTarget" && params.targetInfo.type === "worker") {
        page.workers.push(params.sessionId);
        browser.send("Network.enable", {}, params.sessionId);
      } else if (method === "Network.requestWillBeSent") {
        page.requests.push(params.request.url);
      } else if (method === "Runtime.exceptionThrown") {
        page.complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      } else if (method === "Log.entryAdded" && params.entry.level === "error") {
        page.complaints.push(params.entry.text);
      }
    });
    await page.call("Target.setAutoAttach", { autoAttach: true, waitForDebuggerOnStart: false, flatten: true });
    await page.call("Emulation.setFocusEmulationEnabled", { enabled: true });
    for (const domain of ["Page", "Network", "Runtime", "Log", "DOM"]) {
      await page.call(`${domain}.enable`);
    }
    return page;
  }

  async #evaluate(call, expression) {
    const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) {
      throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
    }
    return result.value;
  }

  value(expression) {
    return this.#evaluate(this.call, expression);
  }

  inWorker(expression) {
    return this.#evaluate(this.callWorker, expression);
  }

  async until(expression) {
    // While a page is loaded there may be nobody to ask.
    const ask = () => this.value(expression).catch(() => false);
    for (const end = Date.now() + WAIT_MS; Date.now() < end; await pause(50)) {
      if (await ask()) {
        return;
      }
    }
    throw new Error(`not true in time: ${expression}; the page says: ${await this.value("document.body.innerText")}`);
  }

  textOf(selector) {
    return this.value(`document.querySelector(${JSON.stringify(selector)}).textContent`);
  }

  setField(id, value) {
    return this.value(`(e => { e.value = ${JSON.stringify(String(value))}; e.dispatchEvent(new Event("change", { bubbles: true })); })(document.querySelector("#${id}"))`);
  }

  async middleOf(selector) {
    const box = `(({ x, y, width, height }) => [x + width / 2, y + height / 2])`;
    return this.value(`(e => (e.scrollIntoView({ block: "center" }), ${box}(e.getBoundingClientRect())))(document.querySelector(${JSON.stringify(selector)}))`);
  }

  async click(selector) {
    const [x, y] = await this.middleOf(selector);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.call("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }

  async press(key, code, windowsVirtualKeyCode, text = undefined) {
    await this.call("Input.dispatchKeyEvent", { type: "keyDown", key, code, windowsVirtualKeyCode, text });
    await this.call("Input.dispatchKeyEvent", { type: "keyUp", key, code, windowsVirtualKeyCode });
  }

  /** Chooses a file as the dialog would. */
  async choose(path) {
    const { root } = await this.call("DOM.getDocument");
    const { nodeId } = await this.call("DOM.querySelector", { nodeId: root.nodeId, selector: "#file" });
    await this.call("DOM.setFileInputFiles", { files: [path], nodeId });
  }

  /** Drags a file from outside and drops it in the middle of an element. */
  async drop(selector, path) {
    const [x, y] = await this.middleOf(selector);
    const data = { items: [], files: [path], dragOperationsMask: 1 };
    for (const type of ["dragEnter", "dragOver", "drop"]) {
      await this.call("Input.dispatchDragEvent", { type, x, y, data });
    }
  }

  async resize(width, height) {
    await this.call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
  }

  async scheme(value) {
    await this.call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  }

  async screenshot(file) {
    await this.value("scrollTo(0, 0)");
    // A scroll bar is not in the picture, and what is there is laid out without it.
    const [width, height] = await this.value("[innerWidth, document.documentElement.scrollHeight]");
    const clip = { x: 0, y: 0, width, height, scale: 1 };
    const { data } = await this.call("Page.captureScreenshot", { captureBeyondViewport: true, clip });
    writeFileSync(file, Buffer.from(data, "base64"));
  }
}
