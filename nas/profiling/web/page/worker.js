// One instance of LiteRT.js in a thread of its own: it loads models and times their runs. Ending it frees its memory.
// Answers each message {id, command, ...} with {id, ok} or {id, error: {kind, message}}.
"use strict";

const TENSORS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
const WARM_UP_MS = 10;  // before each series of samples
const SERIES_MS = 60;
const SETTLED = 0.02;
const MAX_WARM_UP_MS = 3000;
const MB = 1e6;
const NO_MEMORY = /OOM|out of memory|fail\w* to allocate|overflowed|(memory access|table index)( is)? out of bounds/i;
let core, lite, threads = 1, printed = "";
const models = [];

const commands = {
  // base: address of the library; build: "", "compat" or "threaded"; module: its compiled WebAssembly.Module, or null
  async start({base, build, module, threads: count}) {
    // Otherwise LiteRT.js asks for a GPU device, which takes time and memory.
    Object.defineProperty(navigator, "gpu", {value: undefined});
    threads = count;
    const loader = `${base}litert_wasm_${build ? build + "_" : ""}internal.js`;
    let fail;
    const failed = new Promise((_, reject) => (fail = reject));  // LiteRT.js itself would wait for ever
    self.Module = {locateFile: (name) => base + name, mainScriptUrlOrBlob: loader, print() {},
      printErr: (line) => { printed = `${printed}\n${line}`.slice(-2000); }};
    if (module) {
      self.Module.instantiateWasm = (imports, done) => {
        WebAssembly.instantiate(module, imports).then((instance) => done(instance, module), fail);
        return {};
      };
    }
    core = await import(`${base}litert.js`);
    lite = await Promise.race([core.loadLiteRt(loader), failed]);
    return {};
  },

  // Loads a model, gives it random inputs and runs it once.
  async load({url}) {
    const response = await fetch(url);
    if (!response.ok) throw new PageError(`${url.split("/").pop()} cannot be loaded (${response.status})`);
    let bytes;
    try {
      bytes = new Uint8Array(await response.arrayBuffer());
    } catch (error) {
      throw error instanceof RangeError ? error : new PageError(`the connection was lost: ${error.message}`);
    }
    const before = written(), start = performance.now();
    reserve(bytes.length);
    const options = {accelerator: "wasm"};
    if (threads > 1) options.cpuOptions = {numThreads: threads};
    const compiled = await core.loadAndCompile(bytes, options);
    const inputs = {};
    let inputBytes = 0, outputBytes = 0;
    for (const {name, dtype, shape} of compiled.getInputDetails()) {
      if (!(dtype in TENSORS)) throw new Error(`input type ${dtype} is not supported by LiteRT.js`);
      const size = shape.reduce((a, b) => a * b, 1);
      reserve(size * TENSORS[dtype].BYTES_PER_ELEMENT);
      const values = random(new TENSORS[dtype](size));
      inputBytes += values.byteLength;
      inputs[name] = new core.Tensor(values, [...shape]);
    }
    const model = {compiled, inputs};
    await run(model);
    const loadMs = performance.now() - start;
    for (const {dtype, shape} of compiled.getOutputDetails())
      outputBytes += shape.reduce((a, b) => a * b, 1) * (TENSORS[dtype] ?? Float32Array).BYTES_PER_ELEMENT;
    await run(model);
    check();
    models.push(model);
    return {load_ms: loadMs, file_bytes: bytes.length, input_bytes: inputBytes, output_bytes: outputBytes,
      grown_bytes: Math.max(0, written() - before), heap_bytes: heap().byteLength};
  },

  // Runs every loaded model until its time is steady, for `leastMs` or longer.
  async warm({leastMs}) {
    for (const model of models) {
      const begun = performance.now();
      for (let before = 0;;) {
        const first = await milliseconds(model, 1);
        if (first >= MAX_WARM_UP_MS) { model.runMs = first; break; }
        const median = [first, await milliseconds(model, 1), await milliseconds(model, 1)].sort((a, b) => a - b)[1];
        const spent = performance.now() - begun;
        const steady = Math.abs(median - before) <= 0.05 * median;
        if ((spent >= leastMs && steady) || spent >= MAX_WARM_UP_MS) {
          model.runMs = Math.max(median, 1e-3);
          break;
        }
        before = median;
      }
    }
    return {};
  },

  // At most `samples` of each model, in ms a run; each is the mean of as many runs as take `sampleMs`. The models are timed
  // in short series by turns, so that a drift falls on all of them. A page has only the wall clock, to which everything else
  // on the device adds, for seconds at a time: the samples are from the fastest tenth, or the fastest ones where a tenth
  // holds fewer, and timing goes on, for `leastMs` to `mostMs`, until many are as fast.
  async time({samples, sampleMs, leastMs, mostMs}) {
    const times = models.map(() => []), begun = performance.now();
    for (let spent = 0; spent < leastMs || (spent < mostMs && !times.every(settled)); spent = performance.now() - begun)
      for (const [i, model] of models.entries()) times[i].push(...await series(model, sampleMs));
    check();
    const count = Math.min(samples, ...times.map(({length}) => length));
    return times.map((all) => fastest(all, count));
  },
};

class PageError extends Error {}

// Samples that take SERIES_MS together, after a warm-up.
async function series(model, sampleMs) {
  const runs = Math.ceil(sampleMs / model.runMs);
  if (model.runMs < SERIES_MS) await milliseconds(model, Math.ceil(WARM_UP_MS / model.runMs));
  const times = [];
  do times.push(await milliseconds(model, runs));
  while (times.length * runs * model.runMs < SERIES_MS);
  return times;
}

// `count` values spread evenly over the fastest tenth, or the `count` fastest.
function fastest(times, count) {
  const sorted = [...times].sort((a, b) => a - b), step = Math.max(1, sorted.length / 10 / count);
  return Array.from({length: count}, (_, i) => sorted[Math.floor((i + 0.5) * step)]);
}

// Whether the fastest tenth is not by chance: a third of the times are within SETTLED of it.
function settled(times) {
  const sorted = [...times].sort((a, b) => a - b), at = (share) => sorted[Math.floor(share * sorted.length)];
  return at(1 / 3) <= (1 + SETTLED) * at(0.05);
}

// The mean ms of `runs` runs.
async function milliseconds(model, runs) {
  const start = performance.now();
  for (let i = 0; i < runs; i++) await run(model);
  return (performance.now() - start) / runs;
}

async function run({compiled, inputs}) {
  for (const tensor of Object.values(await compiled.run(inputs))) tensor.delete();
}

// LiteRT.js goes on after a run that failed, such as for lack of memory, and only prints that it did.
function check() {
  if (/^ERROR/m.test(printed)) throw new Error("a run failed");
}

const heap = () => lite.liteRtWasm.HEAPU8.buffer;

// Bytes up to the last that was ever written: fresh memory is zero, and the heap only grows.
function written() {
  const words = new Int32Array(heap());
  let last = words.length - 1;
  while (last > 0 && words[last] === 0) last--;
  return 4 * (last + 1);
}

// LiteRT.js does not check whether memory could be allocated, and fails later in ways that do not say so.
function reserve(bytes) {
  const pointer = lite.liteRtWasm._malloc(bytes);
  if (!pointer) throw new RangeError(`${Math.ceil(bytes / MB)} MB cannot be allocated`);
  lite.liteRtWasm._free(pointer);
}

function isFull() {
  try {
    reserve(16 * MB);
    return false;
  } catch {
    return true;
  }
}

function random(array) {
  let state = 1;
  for (let i = 0; i < array.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    array[i] = array instanceof Float32Array ? (state / 2 ** 31 - 1) * 1.7 : (state >>> 8) % (array instanceof Uint8Array ? 256 : 1000);
  }
  return array;
}

function failure(error) {
  // What LiteRT printed says more than its exception.
  const details = printed.split("\n").filter((line) => line.startsWith("ERROR")).slice(-3).map((line) => line.slice(7));
  const message = [...new Set([`${error?.message ?? error}`.split("\n")[0], ...details])].join("; ").slice(0, 300);
  if (error instanceof PageError || !lite) return {kind: "page", message};
  const memory = error instanceof RangeError || NO_MEMORY.test(message) || isFull();
  return {kind: memory ? "memory" : "model", message};
}

onmessage = async ({data}) => {
  try {
    postMessage({id: data.id, ok: await commands[data.command](data)});
  } catch (error) {
    postMessage({id: data.id, error: failure(error)});
  }
};
