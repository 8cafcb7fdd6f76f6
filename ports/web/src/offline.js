// Keeps the files of the page, so that nothing is fetched after it is loaded and it opens without a network.
// Whoever puts the page together writes what the files hash to here, so that other files are another cache.
const CACHE = "smidgen-0";
const FILES = ["./", "index.html", "style.css", "app.js", "view.js", "worker.js", "models.js", "smidgen.js"];
const LARGE = ["smidgen.wasm", "smidgen-simd.wasm", "model.gguf"];

async function install() {
  const cache = await caches.open(CACHE);
  // A server is asked whether a copy that the browser has is still good.
  await cache.addAll([...FILES, ...LARGE].map((name) => new Request(name, { cache: "no-cache" })));
  await skipWaiting();
}

async function activate() {
  for (const name of await caches.keys()) {
    if (name.startsWith("smidgen-") && name !== CACHE) {
      await caches.delete(name);
    }
  }
  // The page that is open already is served from here from now on.
  await clients.claim();
}

async function answer(request) {
  return (await caches.match(request, { cacheName: CACHE })) ?? fetch(request);
}

addEventListener("install", (event) => event.waitUntil(install()));
addEventListener("activate", (event) => event.waitUntil(activate()));
addEventListener("fetch", (event) => event.request.method === "GET" && event.respondWith(answer(event.request)));
