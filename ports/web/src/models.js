// Where models come from and where they are kept: the one that comes with the page, files of the user, and the browser's own
// files (OPFS). None of them is ever whole in JavaScript: they are read into, and written from, the engine's linear memory.

/** Bytes that are written at once. */
const CHUNK_BYTES = 1 << 20;

/** The folder of the models that were opened before; where the browser has no files of its own, that is an error. */
async function folder() {
  return (await navigator.storage.getDirectory()).getDirectoryHandle("models", { create: true });
}

/** What is kept: names and bytes, in order; nothing where the browser keeps nothing. */
export async function list() {
  const found = [];
  try {
    for await (const [name, handle] of (await folder()).entries()) {
      found.push({ name, bytes: (await handle.getFile()).size });
    }
  } catch {
    return found;
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Runs `work` with the file of this name, which nobody else has meanwhile. */
async function within(name, options, work) {
  const handle = await (await (await folder()).getFileHandle(name, options)).createSyncAccessHandle();
  try {
    return await work(handle);
  } finally {
    handle.close();
  }
}

/** Opens a model that is kept. */
export function openKept(engine, name, limits) {
  return within(name, {}, (handle) => {
    const read = (bytes, at) => {
      if (handle.read(bytes, { at }) !== bytes.length) {
        throw new Error("the file is shorter than it was");
      }
    };
    return engine.openFrom(handle.getSize(), read, limits);
  });
}

/** Keeps the bytes of a model; what cannot be written whole is not kept at all. */
export async function keep(name, bytes) {
  try {
    await within(name, { create: true }, (handle) => {
      handle.truncate(0);
      for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
        const chunk = bytes.subarray(at, at + CHUNK_BYTES);
        if (handle.write(chunk, { at }) !== chunk.length) {
          throw new Error("there is no room for it");
        }
      }
      handle.flush();
    });
  } catch (error) {
    await remove(name).catch(() => {});
    throw error;
  }
}

/** Removes a model that is kept. */
export async function remove(name) {
  await (await folder()).removeEntry(name);
}

let builtIn;

/** The model that comes with the page, asked for once: the browser holds it from then on, outside of this program's memory. */
export async function fetched() {
  builtIn ??= fetch(new URL("model.gguf", import.meta.url)).then((response) => {
    if (!response.ok) {
      throw new Error(`the built-in model did not come (${response.status})`);
    }
    return response.blob();
  });
  try {
    return await builtIn;
  } catch (error) {
    builtIn = undefined;
    throw error;
  }
}
