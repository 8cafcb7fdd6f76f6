// Clicks through the page in a headless Chromium over its debugging pipe and keeps a screenshot:
// page.mjs CHROMIUM FOLDER EXPECTED SCREENSHOT. The text that is written must hold EXPECTED.
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";

const [chromium, folder, expected, screenshot] = process.argv.slice(2);
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };
const WAIT_MS = 60000;

const server = createServer((request, response) => {
  const name = normalize(new URL(request.url, "http://page").pathname).replace(/\/$/, "/index.html");
  try {
    const bytes = readFileSync(join(folder, name));
    response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" }).end(bytes);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const address = `http://127.0.0.1:${server.address().port}/`;

const profile = mkdtempSync(join(tmpdir(), "smidgen-page-"));
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"];
const browser = spawn(chromium, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });

// The DevTools protocol: JSON messages, each ended by a zero.
let [lastId, received] = [0, ""];
const waiting = new Map();
browser.stdio[4].on("data", (data) => {
  received += data;
  const messages = received.split("\0");
  received = messages.pop();
  for (const message of messages.map(JSON.parse)) {
    const { resolve, reject } = waiting.get(message.id) ?? {};
    waiting.delete(message.id);
    message.error ? reject?.(new Error(message.error.message)) : resolve?.(message.result);
  }
});
function send(method, params = {}, sessionId = undefined) {
  const id = ++lastId;
  browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function run() {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const call = (method, params) => send(method, params, sessionId);
  const value = async (expression) =>
    (await call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true })).result.value;
  const until = async (expression) => {
    for (const end = Date.now() + WAIT_MS; Date.now() < end; ) {
      if (await value(expression)) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`not true in time: ${expression}; the page says: ${await value("document.body.innerText")}`);
  };
  const click = async (selector) => {
    const box = `(({ x, y, width, height }) => [x + width / 2, y + height / 2])`;
    const [x, y] = await value(`(e => (e.scrollIntoView(), ${box}(e.getBoundingClientRect())))(document.querySelector("${selector}"))`);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await call("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  };
  await call("Page.enable");
  await call("Emulation.setDeviceMetricsOverride", { width: 390, height: 900, deviceScaleFactor: 1, mobile: false });
  await call("Page.navigate", { url: address });
  await until(`document.querySelector("#write")?.disabled === false`);
  // On a phone's width nothing is wider than the page.
  await until("document.documentElement.scrollWidth <= innerWidth");
  await click("#write");
  await until(`document.querySelector("#state").textContent.startsWith("Done")`);
  const text = await value(`document.querySelector("#text").textContent`);
  if (!text.includes(expected)) {
    throw new Error(`the page wrote ${JSON.stringify(text)}`);
  }
  await value(`document.querySelector("h1").scrollIntoView()`);
  const { data } = await call("Page.captureScreenshot", { captureBeyondViewport: true });
  writeFileSync(screenshot, Buffer.from(data, "base64"));
  // Stopping ends a long text early, which is begun from the keyboard. On a busy machine the text may be over before the click
  // arrives; then it is told again.
  for (let tries = 1; ; tries++) {
    await value(`document.querySelector("#tokens").value = 200, document.querySelector("#write").focus()`);
    for (const type of ["keyDown", "keyUp"]) {
      await call("Input.dispatchKeyEvent", { type, key: "Enter", code: "Enter", windowsVirtualKeyCode: 13, text: type === "keyDown" ? "\r" : undefined });
    }
    await until(`document.querySelectorAll("#text .new").length > 3`);
    await click("#stop");
    await until(`!document.querySelector("#state").textContent.startsWith("Writing")`);
    const state = await value(`document.querySelector("#state").textContent`);
    if (state.startsWith("Stopped")) {
      break;
    }
    if (tries === 10 || !state.startsWith("Done")) {
      throw new Error(`the text was not stopped: ${state}`);
    }
  }
  // A file that is no model is refused in words, and what was there can be used again.
  await value(`(() => {
    const files = new DataTransfer();
    files.items.add(new File([new Uint8Array(64)], "zeros.gguf"));
    document.querySelector("#file").files = files.files;
    document.querySelector("#file").dispatchEvent(new Event("change"));
  })()`);
  await until(`document.querySelector("#state").textContent.includes("no model")`);
  // The model as a file is opened, kept, and still there after the page is loaded again without a network.
  await value(`(async () => {
    const bytes = await (await fetch("model.gguf")).arrayBuffer();
    const files = new DataTransfer();
    files.items.add(new File([bytes], "mine.gguf"));
    document.querySelector("#file").files = files.files;
    document.querySelector("#file").dispatchEvent(new Event("change"));
  })()`);
  await until(`document.querySelector("#kept").value === "mine.gguf"`);
  await until(`navigator.serviceWorker.ready.then((ready) => ready.active?.state === "activated")`);
  server.close();
  server.closeAllConnections();
  await call("Page.reload");
  await until(`document.querySelector("#write")?.disabled === false && document.querySelector("#kept").options.length === 2`);
  console.log(text);
}

let failed;
try {
  await run();
} catch (error) {
  failed = error;
}
browser.kill();
await new Promise((resolve) => browser.once("exit", resolve));
server.close();
rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
if (failed) {
  console.error(failed.message);
  process.exit(1);
}
process.exit(0);
