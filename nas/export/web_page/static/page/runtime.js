// What this browser can run models on, and the worker that runs them.
import {supportsFeature} from "../libraries/litert.js";

/** A function with a 128-bit instruction: compiles only with SIMD, which every build of LiteRT.js needs. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const MOST_THREADS = 4;  // more than a phone's fast cores slow a run down

/** An error with a message for the page's reader. `kind`: `memory`, `file`, `stopped` or `other`. */
export class PageError extends Error {
  constructor(message, kind = "other", detail = "") {
    super(message);
    Object.assign(this, {kind, detail});
  }
}

/**
 * What models can run on here, the fastest that is dependable first.
 * @returns list of {id, label, build, accelerator, threads, missing}; `missing`: why it cannot be used, or ""
 */
export async function accelerators() {
  if (!globalThis.WebAssembly || !WebAssembly.validate(new Uint8Array(SIMD)))
    throw new PageError("This browser cannot run the model: it has no WebAssembly SIMD. Update it (Chrome 91, Firefox 89, Safari 16.4 or newer).");
  const relaxed = await supportsFeature("relaxedSimd");
  const threads = Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1);
  const unsafe = isSecureContext ? "" : "needs https or localhost";
  const one = {id: "wasm", label: "CPU, one thread", build: relaxed ? "" : "compat", accelerator: "wasm", threads: 1, missing: ""};
  const many = {
    id: "threads", label: `CPU, ${threads} threads`, build: "threaded", accelerator: "wasm", threads,
    missing: unsafe || (!crossOriginIsolated ? "needs the headers that nas serve sends" : !relaxed ? "needs a newer browser"
      : threads < 2 ? "this device has one core" : ""),
  };
  const gpu = {
    id: "webgpu", label: "GPU (WebGPU)", build: "jspi", accelerator: "webgpu", threads: 1,
    missing: unsafe || (!(await hasGpu()) || !(await supportsFeature("jspi")) || !relaxed ? "not in this browser" : ""),
  };
  return [many, one, gpu];
}

async function hasGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

const compiled = new Map();  // WebAssembly modules by build: workers share them

/** Download and compile a build of LiteRT.js. `onBytes` is called with the number of bytes so far. */
async function compileBuild(build, onBytes) {
  const file = `litert_wasm_${build ? `${build}_` : ""}internal.wasm`;
  if (!compiled.has(build)) {
    const response = await fetch(new URL(`../libraries/${file}`, import.meta.url)).catch(() => null);
    if (!response?.ok) throw missingFile(`libraries/${file}`);
    let loaded = 0;
    const counted = response.body.pipeThrough(new TransformStream({
      transform(part, controller) {
        onBytes(loaded += part.length);
        controller.enqueue(part);
      },
    }));
    const wasm = new Response(counted, {headers: {"Content-Type": "application/wasm"}});
    try {
      compiled.set(build, await WebAssembly.compileStreaming(wasm));
    } catch (error) {
      throw new PageError(`libraries/${file} cannot be used: ${error.message}. Export the model again.`, "file");
    }
  }
  return compiled.get(build);
}

export const missingFile = (name) =>
  new PageError(`'${name}' cannot be loaded. Is the server still running, and the folder complete? Otherwise export the model again.`, "file");

/** A worker with LiteRT.js in it. After an error it cannot be used any more. */
export class Session {
  #worker = new Worker(new URL("worker.js", import.meta.url));
  #waiting = new Map();
  #serial = 0;
  #models;

  /** @param models `models` of export.json */
  constructor(models) {
    this.#models = models;
    this.#worker.onmessage = ({data}) => this.#answer(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.close(memoryError(models, event.message));
    };
  }

  /** Start a session on one of `accelerators()`. */
  static async start(accelerator, models, onBytes = () => {}) {
    const module = await compileBuild(accelerator.build, onBytes), session = new Session(models);
    const {build, accelerator: name, threads} = accelerator;
    await session.#ask("start", {build, module, accelerator: name, threads});
    return session;
  }

  /** Download and compile a model; `onBytes` is called with the bytes so far. Returns {accelerator, ms}. */
  load(name, onBytes = () => {}) {
    const {file, size_mb} = this.#models[name], url = new URL(`../${file}`, import.meta.url).href;
    return this.#ask("load", {name, url, size: Math.round(size_mb * 1e6)}, onBytes);
  }

  /** Run a model on {input name: typed array}. Returns [{output name: Float32Array}, time in ms]. */
  async run(name, inputs) {
    const {inputs: wanted, outputs: ports} = this.#models[name];
    const given = Object.fromEntries(wanted.map(({name: port}) => [port, inputs[port]]));
    const {outputs, ms} = await this.#ask("run", {name, inputs: given});
    const found = Object.fromEntries(outputs);
    return [Object.fromEntries(ports.map(({name: port}, i) => {
      const values = found[port] ?? found[`output_${i}`];  // the converter numbers the outputs
      if (!values) throw new PageError(`'${this.#models[name].file}' has other outputs than 'export.json' says. Export the model again.`, "file");
      return [port, values];
    })), ms];
  }

  /** End the worker, which frees its memory; unfinished calls fail with `reason`. */
  close(reason = new PageError("Stopped.", "stopped")) {
    this.#worker.terminate();
    for (const {reject} of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
    this.closed = true;
  }

  #ask(command, values, onBytes) {
    return new Promise((resolve, reject) => {
      if (this.closed) return reject(new PageError("Stopped.", "stopped"));
      this.#waiting.set(++this.#serial, {resolve, reject, onBytes});
      this.#worker.postMessage({id: this.#serial, command, ...values});
    });
  }

  #answer({id, ok, error, detail, kind, loaded}) {
    const {resolve, reject, onBytes} = this.#waiting.get(id) ?? {};
    if (!resolve) return;
    if (loaded !== undefined) return onBytes(loaded);
    this.#waiting.delete(id);
    if (error === undefined) return resolve(ok);
    const [, problem, file] = /^(missing|damaged) file: (.*)$/.exec(error) ?? [];
    if (problem === "missing") reject(missingFile(file));
    else if (problem === "damaged") reject(new PageError(`'${file}' is not the file that was exported. Export the model again.`, "file"));
    else reject(kind === "memory" ? memoryError(this.#models, detail || error) : new PageError(`The model cannot run here: ${error}`, "other", detail));
  }
}

function memoryError(models, detail) {
  const size = Object.values(models).reduce((sum, {size_mb}) => sum + size_mb, 0);
  return new PageError(
    `This device ran out of memory. The model has ${size.toFixed(size < 10 ? 1 : 0)} MB and needs about twice that. ` +
    "Close other tabs and apps and try again, or export a smaller model.", "memory", detail);
}
