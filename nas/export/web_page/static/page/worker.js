// One LiteRT.js session: loads models and runs them. Answers a message {id, command, ...} with {id, ok} or {id, error,
// detail, kind}, and reports {id, loaded} bytes while a model is downloaded. A classic worker, since LiteRT.js loads its
// WebAssembly build with importScripts, which module workers do not have.
"use strict";

const LIBRARIES = new URL("../libraries/", self.location.href).href;
const models = new Map();
let litert, runtime, options, lastError = "";

const commands = {
  /** Start a build: its compiled WebAssembly module, and the accelerator `wasm` or `webgpu`. */
  async start({build, module, accelerator, threads}) {
    if (accelerator !== "webgpu") Object.defineProperty(self.navigator, "gpu", {value: undefined, configurable: true});
    const script = `${LIBRARIES}litert_wasm_${build ? `${build}_` : ""}internal.js`;
    let fail;
    const failed = new Promise((_, reject) => (fail = reject));  // otherwise LiteRT.js would wait forever
    self.Module = {
      print: () => {},
      printErr: (line) => /^ERROR|error:/i.test(line) && (lastError = line.slice(0, 300)),  // LiteRT.js logs a lot
      locateFile: (name) => LIBRARIES + name,
      mainScriptUrlOrBlob: script,
      instantiateWasm(imports, done) {
        WebAssembly.instantiate(module, imports).then((instance) => done(instance, module), fail);
        return {};
      },
    };
    litert = await import(`${LIBRARIES}litert.js`);
    runtime = await Promise.race([litert.loadLiteRt(script), failed]);
    if (accelerator === "webgpu" && !runtime.getWebGpuDevice()) throw new Error("This browser offers no GPU to pages.");
    options = {accelerator, ...(threads > 1 && {cpuOptions: {numThreads: threads}})};
  },

  /** Download and compile a model of `size` bytes. Returns the accelerator that it runs on, and the time in ms. */
  async load({name, url, size}, id) {
    const bytes = await download(url, (loaded) => postMessage({id, loaded}));
    const format = String.fromCharCode(...bytes.subarray(4, 8));
    if (bytes.length !== size || format !== "TFL3") throw new Error(`damaged file: ${fileName(url)}`);
    const free = runtime.liteRtWasm._malloc(bytes.length);  // LiteRT.js does not check its own call
    if (!free) throw new OutOfMemory();
    runtime.liteRtWasm._free(free);
    const start = performance.now();
    const compiled = await litert.loadAndCompile(bytes, options);
    models.set(name, compiled);
    return {accelerator: compiled.options.accelerator, ms: performance.now() - start};
  },

  /** Run a model on {input name: typed array}. Returns the outputs in the model's order, and the time in ms. */
  async run({name, inputs}) {
    const compiled = models.get(name), tensors = {};
    for (const {name: key, shape} of compiled.getInputDetails()) {
      const values = inputs[key.replace(/^serving_default_|:0$/g, "")];
      if (!values) throw new Error(`${name} has an input '${key}' that export.json does not name.`);
      tensors[key] = new litert.Tensor(values, [...shape]);
    }
    const start = performance.now();
    const results = await compiled.run(tensors);
    const outputs = [];
    for (const {name: key} of compiled.getOutputDetails()) outputs.push([key, new Float32Array(await results[key].data())]);
    const ms = performance.now() - start;
    for (const tensor of [...Object.values(tensors), ...Object.values(results)]) tensor.delete();
    return {outputs, ms};
  },
};

class OutOfMemory extends Error {}

async function download(url, onBytes) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) throw new Error(`missing file: ${fileName(url)}`);
  const reader = response.body.getReader(), parts = [];
  let loaded = 0;
  for (let part; !(part = await reader.read()).done; onBytes(loaded)) {
    parts.push(part.value);
    loaded += part.value.length;
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (let i = 0; i < parts.length; i++) {
    bytes.set(parts[i], at);
    at += parts[i].length;
    parts[i] = null;
  }
  return bytes;
}

const fileName = (url) => new URL(url).pathname.split("/").at(-1);

// A failed allocation inside the WebAssembly module is not reported as such, but ends in one of these.
const outOfMemory = (error) =>
  error instanceof OutOfMemory || error instanceof RangeError || error instanceof WebAssembly.RuntimeError ||
  /out of memory|OOM|allocat|table index is out of bounds/i.test(error?.message ?? error);

onmessage = async ({data: {id, command, ...values}}) => {
  try {
    postMessage({id, ok: await commands[command](values, id)});
  } catch (error) {
    postMessage({id, error: String(error?.message || error), detail: lastError, kind: outOfMemory(error) ? "memory" : "other"});
  }
};
