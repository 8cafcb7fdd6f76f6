// Keeps the files of the page, so that it opens without a network.
const CACHE = "smidgen-1";
const FILES = ["./", "app.js", "worker.js", "smidgen.js", "smidgen.wasm", "smidgen-simd.wasm", "model.gguf"];

addEventListener("install", (event) => event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES))));
addEventListener("fetch", (event) => {
  event.respondWith(caches.match(event.request).then((found) => found ?? fetch(event.request)));
});
