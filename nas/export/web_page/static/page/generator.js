// Text to video: prompt -> tokens -> context -> sampling steps -> decoded frames, with the time of each part.
import {decodeFrames, sample} from "./sampler.js";
import {missingFile, PageError, Session} from "./runtime.js";
import {PromptTokenizer} from "./tokens.js";

/** Models above this are loaded one after the other, each in a worker of its own, since only ending a worker frees memory. */
const KEEP_ALL_MB = 300;
const SCHEMA_VERSION = 1;

const url = (name) => new URL(`../${name}`, import.meta.url);

/** A file of the export folder: `json`, or `arrayBuffer`. */
async function read(name, as = "json") {
  const response = await fetch(url(name)).catch(() => null);
  if (!response?.ok) throw missingFile(name);
  return response[as]().catch(() => { throw new PageError(`'${name}' is damaged. Export the model again.`, "file"); });
}

/** The entry of format `web` in export.json. */
export async function readManifest() {
  const manifest = await read("export.json");
  if (manifest.schema_version !== SCHEMA_VERSION || !manifest.web?.app)
    throw new PageError("'export.json' does not belong to this page. Export the model again with --format web.", "file");
  return manifest.web;
}

export class VideoGenerator {
  #session = null;
  #loading = null;

  /**
   * @param app `app` of the manifest's entry
   * @param accelerator one of runtime.js's `accelerators()`
   * @param report called with (text, share): what is done (nothing new if empty), and its share from 0 to 1 (null: unknown)
   */
  constructor(app, accelerator, report) {
    Object.assign(this, {app, accelerator, report, loadMs: 0, fallbacks: []});
    const {denoiser = ["denoiser"]} = app;  // a large one is several models
    this.parts = {text_encoder: ["text_encoder"], denoiser, decoder: ["decoder"]};
    const size = Object.values(this.parts).flat().reduce((sum, name) => sum + app.models[name].size_mb, 0);
    this.keepAll = size <= KEEP_ALL_MB;
  }

  /** Read the tokenizer, and load the models if all of them fit. */
  prepare() {
    this.#loading ??= this.#prepare();
    return this.#loading;
  }

  async #prepare() {
    const {prompt} = this.app, start = performance.now();
    this.report("Loading the tokenizer", 0);
    const [tokenizer, config, context] = await Promise.all([
      read(`${prompt.folder}/tokenizer.json`), read(`${prompt.folder}/tokenizer_config.json`), read(prompt.empty_context, "arrayBuffer")]);
    this.tokenizer = new PromptTokenizer(prompt, tokenizer, config);
    this.emptyContext = new Float32Array(context);
    if (this.keepAll) {
      await this.#start();
      for (const part in this.parts) await this.#load(part);
    }
    this.loadMs = performance.now() - start;
  }

  /**
   * Generate a clip.
   * @param seed a BigInt
   * @param onFrame called with (RGBA frame, index) as frames are decoded
   * @returns {times: [[part, ms of each run]], totalMs, dropped}; `dropped`: tokens that the prompt had too many
   */
  async generate(prompt, seed, onFrame) {
    await this.prepare();
    const {steps, guidance} = this.app.sampling, start = performance.now();
    const times = {text_encoder: [], denoiser: [], decoder: []};
    const run = async (part, inputs) => {
      let outputs, total = 0;
      for (const name of this.parts[part]) {
        const [found, ms] = await this.#session.run(name, {...inputs, ...outputs});
        outputs = {...outputs, ...found};
        total += ms;
      }
      times[part].push(total);
      return outputs;
    };
    const {dropped, ...tokens} = this.tokenizer.encode(prompt);

    await this.#only("text_encoder");
    this.report("Reading the prompt", 0);
    const {context} = await run("text_encoder", tokens);

    await this.#only("denoiser");
    const calls = steps.length * (guidance === 1 ? 1 : 2), output = this.app.models[this.parts.denoiser.at(-1)].outputs[0].name;
    this.report(`Denoising, step 1 of ${steps.length}`, 0);
    const latents = await sample(this.app, seed, async (x, timestep, empty) => {
      const inputs = {x, timestep: new Float32Array([timestep]), context: empty ? this.emptyContext : context};
      const prediction = (await run("denoiser", inputs))[output];
      this.report(null, times.denoiser.length / calls);
      return prediction;
    }, (done) => this.report(done < steps.length && `Denoising, step ${done + 1} of ${steps.length}`, done / steps.length));

    await this.#only("decoder");
    const {frames} = this.app.clip;
    this.report(`Decoding ${frames} frames`, 0);
    let index = 0;
    for await (const frame of decodeFrames(this.app, latents, (inputs) => run("decoder", inputs))) {
      onFrame(frame, index++);
      this.report(`Decoding, frame ${index} of ${frames}`, index / frames);
    }
    if (!this.keepAll) this.#session.close();
    return {times, totalMs: performance.now() - start, dropped};
  }

  /** Stop what is running, and free the memory. */
  close(reason) {
    this.#session?.close(reason);
    this.closed = true;
  }

  async #start() {
    const megabytes = (bytes) => `Loading the runtime, ${(bytes / 1e6).toFixed(0)} MB`;
    this.#session = await Session.start(this.accelerator, this.app.models, (bytes) => this.report(megabytes(bytes), null));
    if (this.closed) {
      this.#session.close();
      throw new PageError("Stopped.", "stopped");
    }
  }

  async #load(part) {
    const title = part.replace("_", " ");
    for (const name of this.parts[part]) {
      const {size_mb} = this.app.models[name];
      this.report(`Loading the ${title}, ${size_mb.toFixed(1)} MB`, 0);
      const {accelerator} = await this.#session.load(name, (bytes) => this.report(null, bytes / (size_mb * 1e6)));
      if (accelerator !== this.accelerator.accelerator && !this.fallbacks.includes(title)) this.fallbacks.push(title);
    }
  }

  /** Have a part loaded; unless all parts fit, it becomes the only one. */
  async #only(part) {
    if (this.keepAll) return;
    this.#session?.close();
    await this.#start();
    await this.#load(part);
  }
}
