// A visit to the page in a headless Chromium: page.mjs CHROMIUM FOLDER MODEL EXPECTED PICTURES.
// EXPECTED is JSON: what the command tells greedily (`text`, and `logits`, the hash of its logits) and drawn (`drawn`, with the
// `sampling` of it). Pictures of the page are left in the folder PICTURES.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { contrast, names, tabs } from "./access.mjs";
import { Page, serve, start } from "./chromium.mjs";

const [chromium, folder, model, expectations, pictures] = process.argv.slice(2);
const expected = JSON.parse(expectations);
const files = mkdtempSync(join(tmpdir(), "smidgen-files-"));
mkdirSync(pictures, { recursive: true });
const IS_OPEN = `!document.querySelector("#write").disabled`;
const IS_CONTROLLED = `navigator.serviceWorker.controller?.state === "activated"`;
/** Bytes of the worker's JavaScript beside linear memory: less than any copy of the model. */
const BESIDE_BYTES = 1 << 20;

/** What a full browser has left: less than a model, more than nothing. */
const ROOM_BYTES = 1_300_000;

function same(what, found, wanted) {
  if (found !== wanted) {
    throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`);
  }
}

/** Writes with a click and gives the text. */
async function written(page) {
  await page.click("#write");
  await page.until(`!document.querySelector("#state").textContent.startsWith("Writing")`);
  const state = await page.textOf("#state");
  if (!state.startsWith("Done")) {
    throw new Error(`the page says: ${state}`);
  }
  return (await page.textOf("#text")).trimEnd();
}

async function sampling(page, fields) {
  for (const [id, value] of Object.entries(fields)) {
    await page.setField(id, value);
  }
  await page.until(IS_OPEN);
}

/** The built-in model tells what the command tells, with every bit of its logits, in no more memory than is planned. */
async function writes(page) {
  await sampling(page, { context: expected.context, tokens: expected.tokens, temperature: 0 });
  await page.inWorker(`import(new URL("smidgen.js", location.href)).then(({ Smidgen }) => {
    globalThis.hash = 0xcbf29ce484222325n;
    const forward = Smidgen.prototype.forward;
    Smidgen.prototype.forward = function (ids) {
      const logits = forward.call(this, ids);
      for (const byte of new Uint8Array(logits.buffer)) {
        hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
      }
      return logits;
    };
    globalThis.restore = () => { Smidgen.prototype.forward = forward; };
  })`);
  same("the text", await written(page), expected.text);
  same("the logits", await page.inWorker(`restore(), hash.toString(16).padStart(16, "0")`), expected.logits);
  await sampling(page, expected.sampling);
  same("the text with a seed", await written(page), expected.drawn);
  await sampling(page, { temperature: 0, repeatPenalty: 1 });
}

/** The rows of the plan are the sum below them, and the memory that is there is no more than that. */
async function plan(page) {
  const rows = await page.value(`[...document.querySelectorAll("#plan data")].map(e => Number(e.value))`);
  const total = rows.pop();
  same("the sum of the plan", rows.reduce((sum, n) => sum + n, 0), total);
  const used = Number(await page.value(`document.querySelector("#state data").value`));
  if (rows.length < 15 || used > total) {
    throw new Error(`${rows.length} rows, ${used} bytes used, ${total} planned`);
  }
  return `${rows.length} rows, ${used} bytes used of ${total} planned`;
}

/** No copy of the model lies in the worker beside linear memory, which does not count here. */
async function beside(page) {
  await page.callWorker("HeapProfiler.collectGarbage");
  const { backingStorageSize } = await page.callWorker("Runtime.getHeapUsage");
  if (!(backingStorageSize <= BESIDE_BYTES)) {
    throw new Error(`the worker holds ${backingStorageSize} bytes in buffers beside linear memory`);
  }
  return `buffers beside linear memory: ${backingStorageSize} bytes`;
}

/** Stopping ends a long text early, which is begun from the keyboard. On a busy machine the text may be over before the click
 * arrives; then it is told again. */
async function stops(page) {
  await sampling(page, { context: 256, tokens: 200 });
  for (let tries = 1; ; tries++) {
    await page.value(`document.querySelector("#write").focus()`);
    await page.press("Enter", "Enter", 13, "\r");
    await page.until(`document.querySelectorAll("#text .new").length > 3`);
    await page.click("#stop");
    await page.until(`!document.querySelector("#state").textContent.startsWith("Writing")`);
    const state = await page.textOf("#state");
    if (state.startsWith("Stopped")) {
      break;
    }
    if (tries === 10 || !state.startsWith("Done")) {
      throw new Error(`the text was not stopped: ${state}`);
    }
  }
  await sampling(page, { context: expected.context, tokens: expected.tokens });
}

/** A file that is no model, and one that is half of one, are refused in words; the model before them writes on. */
async function refuses(page) {
  const [zeros, half, bytes] = [join(files, "zeros.gguf"), join(files, "half.gguf"), readFileSync(model)];
  writeFileSync(zeros, Buffer.alloc(64));
  writeFileSync(half, bytes.subarray(0, bytes.length / 2));
  for (const [path, name] of [[zeros, "zeros.gguf"], [half, "half.gguf"]]) {
    await page.choose(path);
    await page.until(`document.querySelector("#model").textContent.startsWith("${name} was not opened: the bytes are no model")`);
    same("what is said of the model before", (await page.textOf("#model")).endsWith("The built-in model is still open."), true);
    same("the text after a refusal", await written(page), expected.text);
  }
}

/** A model that is dropped is opened and kept; one that there is no room for is opened all the same. */
async function drops(page, origin) {
  const [mine, other] = [join(files, "mine.gguf"), join(files, "other.gguf")];
  [mine, other].forEach((path) => copyFileSync(model, path));
  await page.drop("#text", mine);
  await page.until(`document.querySelector("#model").textContent === "mine.gguf is open."`);
  same("the text of a dropped model", await written(page), expected.text);
  console.log(await beside(page));
  // There is room for a part of it.
  const quotaSize = (await page.value("navigator.storage.estimate().then(({ usage }) => usage)")) + ROOM_BYTES;
  await page.call("Storage.overrideQuotaForOrigin", { origin, quotaSize });
  await page.drop(".drop", other);
  await page.until(`document.querySelector("#model").textContent.startsWith("other.gguf is open, but not kept")`);
  same("the text of a model that is not kept", await written(page), expected.text);
  await page.call("Storage.overrideQuotaForOrigin", { origin });
  same("the models that are kept", await page.value(`[...document.querySelectorAll("#models .name")].map(e => e.firstChild.data).join()`), "The built-in model,mine.gguf");
  for (const [name, said] of [["mine.gguf", "mine.gguf is open."], ["The built-in model", "The built-in model is open."]]) {
    await page.click(`button[aria-label="Open ${name}"]`);
    await page.until(`document.querySelector("#model").textContent === "${said}" && ${IS_OPEN}`);
    same(`the text of ${name}, opened again`, await written(page), expected.text);
  }
}

/** What there is to see, in both schemes and on a phone, where nothing is wider than the page. */
async function looks(page) {
  await page.resize(1180, 900);
  console.log(await names(page));
  console.log(await tabs(page));
  for (const scheme of ["light", "dark"]) {
    console.log(await contrast(page, scheme));
    await page.value("document.activeElement.blur()");
    await page.screenshot(join(pictures, `page-${scheme}.png`));
  }
  await page.scheme("light");
  await page.resize(390, 844);
  await page.until("document.documentElement.scrollWidth <= innerWidth");
  console.log(await tabs(page));
  await page.value("document.activeElement.blur()");
  await page.screenshot(join(pictures, "page-phone.png"));
}

/** Without a server the page is there, opens what is kept, writes, and forgets what it is told to. */
async function offline(page, server) {
  server.stop();
  await page.call("Page.reload", { ignoreCache: false });
  await page.until(`document.querySelector("#models li:nth-child(2)") && ${IS_OPEN}`);
  await page.click(`button[aria-label="Open mine.gguf"]`);
  await page.until(`document.querySelector("#model").textContent === "mine.gguf is open." && ${IS_OPEN}`);
  await sampling(page, { context: expected.context, tokens: expected.tokens, temperature: 0 });
  same("the text without a network", await written(page), expected.text);
  await page.click(`button[aria-label="Remove mine.gguf"]`);
  await page.until(`document.querySelectorAll("#models li").length === 1`);
  await page.call("Page.reload", { ignoreCache: false });
  await page.until(`document.querySelectorAll("#models li").length === 1 && ${IS_OPEN}`);
}

async function visit(browser, server) {
  const page = await Page.open(browser);
  await page.resize(390, 844);
  await page.call("Page.navigate", { url: server.address });
  await page.until(`${IS_OPEN} && ${IS_CONTROLLED}`);
  // From here on nothing may be fetched, by the page, its worker or its service worker.
  const [nAsked, nRequests] = [server.asked.length, page.requests.length];
  await writes(page);
  console.log(await plan(page));
  await stops(page);
  await refuses(page);
  await drops(page, new URL(server.address).origin);
  await looks(page);
  // A browser looks by itself, and when it likes, whether there is another service worker.
  const asked = server.asked.slice(nAsked).filter((name) => name !== "/offline.js");
  same("what was asked for after loading", [...asked, ...page.requests.slice(nRequests)].join(), "");
  same("complaints", page.complaints.join(), "");
  await offline(page, server);
}

const server = await serve(folder);
const browser = start(chromium);
let failed;
try {
  await visit(browser, server);
} catch (error) {
  failed = error;
}
await browser.stop();
server.stop();
rmSync(files, { recursive: true, force: true });
if (failed) {
  console.error(failed.message);
}
process.exit(failed ? 1 : 0);
