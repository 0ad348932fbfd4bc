// What a page can do for a measurement: describe the browser, and load and time models in workers. The measurement
// protocol is not here: a page is told what to run, by the machine that it is connected to or by the plan of a bundle.

const RELAXED_SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2,
  253, 15, 253, 128, 2, 11];  // a module with the instruction i8x16.relaxed_swizzle
const TIME_MS = [2500, 8000], PROBE_MS = [500, 2000];  // at least and at most, of a workload, and of the reference
const SLEPT_MS = 5000;  // a timer of one second that is late by so much: the page was not running

export class VisitError extends Error {
  constructor({kind, message}) {
    super(message);
    this.kind = kind;  // memory, model or page
  }
}

export async function describe() {
  const hints = await navigator.userAgentData?.getHighEntropyValues?.(
    ["model", "platform", "platformVersion", "architecture", "bitness", "fullVersionList"]).catch(() => null);
  return {
    user_agent: navigator.userAgent,
    model: hints?.model ?? "",
    platform: hints?.platform ?? "",
    platform_version: hints?.platformVersion ?? "",
    architecture: [hints?.architecture, hints?.bitness].filter(Boolean).join(" "),
    browser: (hints?.fullVersionList ?? []).filter(({brand}) => !/not.a.brand/i.test(brand)).map(
      ({brand, version}) => `${brand} ${version}`).join(", "),
    cores: navigator.hardwareConcurrency ?? 0,
    touch: (navigator.maxTouchPoints ?? 0) > 1,
    relaxed_simd: WebAssembly.validate(new Uint8Array(RELAXED_SIMD)),
    isolated: globalThis.crossOriginIsolated ?? false,
    secure: globalThis.isSecureContext ?? false,
    clock_ms: clockResolution(),
    wake_lock: "wakeLock" in navigator,
  };
}

// The smallest step of the clock in ms.
function clockResolution() {
  let least = Infinity, last = performance.now();
  const end = last + 100;
  while (last < end) {
    const now = performance.now();
    if (now !== last) least = Math.min(least, now - last);
    last = now;
  }
  return Math.min(least, 100);
}

// How long a sample must last to be known to half a percent or better.
export const sampleMs = (clockMs) => (clockMs <= 0.05 ? 4 : clockMs <= 0.2 ? 20 : 100);

export class Measurer {
  constructor({library, clockMs, onStep = () => {}}) {
    Object.assign(this, {library, sampleMs: sampleMs(clockMs), onStep, modules: {}, kept: null, now: null, undisturbed: true});
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.undisturbed = false; });
    let last = performance.now();
    setInterval(() => {
      if (performance.now() - last > SLEPT_MS) this.undisturbed = false;
      last = performance.now();
    }, 1000);
  }

  // Loads models into a fresh worker and times them. `keep` names a worker to use again in later visits.
  async visit({models, samples, build, threads, warmMs, keep = ""}) {
    this.undisturbed = !document.hidden;
    const kept = keep && this.kept?.name === keep;
    let session;
    try {
      session = kept ? this.kept : await this.open(models, build, threads, samples ? warmMs : null, keep);
      this.now = session;
      this.onStep("timing");
      const [leastMs, mostMs] = keep ? PROBE_MS : TIME_MS;
      const timing = {command: "time", samples, sampleMs: this.sampleMs, leastMs, mostMs};
      const times = samples ? await session.ask(timing) : models.map(() => []);
      const loaded = session.loaded.map((one, i) => ({...one, samples_ms: times[i]}));
      return {models: loaded, undisturbed: this.undisturbed && !document.hidden};
    } catch (error) {
      if (session === this.kept) this.kept = null;
      session?.end();
      throw error;
    } finally {
      if (!keep) session?.end();
      this.now = null;
    }
  }

  async open(models, build, threads, warmMs, keep) {
    this.onStep("loading");
    const session = (this.now = new Session(keep));
    try {
      await session.ask({command: "start", base: this.library, build, threads, module: await this.module(build)});
      session.loaded = [];
      for (const url of models) session.loaded.push(await session.ask({command: "load", url}));
      if (warmMs !== null) {
        this.onStep("warming up");
        await session.ask({command: "warm", leastMs: warmMs});
      }
    } catch (error) {
      session.end();
      throw error;
    }
    if (keep) {
      this.kept?.end();
      this.kept = session;
    }
    return session;
  }

  // Ends what runs now; its visit fails.
  cancel() {
    if (this.now === this.kept) this.kept = null;
    this.now?.end();
  }

  // The compiled library, which all workers share.
  async module(build) {
    if (!(build in this.modules)) {
      const address = `${this.library}litert_wasm_${build ? build + "_" : ""}internal.wasm`;
      const response = await fetch(address).catch((error) => { throw new VisitError({kind: "page", message: error.message}); });
      if (!response.ok) throw new VisitError({kind: "page", message: `${address} cannot be loaded (${response.status})`});
      try {
        this.modules[build] = await WebAssembly.compile(await response.arrayBuffer());
      } catch (error) {
        throw new VisitError({kind: "page", message: `this browser cannot compile LiteRT.js: ${error.message}`});
      }
    }
    return this.modules[build];
  }
}

class Session {
  constructor(name) {
    this.name = name;
    this.serial = 0;
    this.waiting = null;
    this.worker = new Worker(new URL("worker.js", import.meta.url));
    this.worker.onmessage = ({data}) => {
      if (!this.waiting) return;
      const {resolve, reject} = this.waiting;
      this.waiting = null;
      data.error ? reject(new VisitError(data.error)) : resolve(data.ok);
    };
    this.worker.onerror = (event) => this.fail({kind: "model", message: `the worker crashed: ${event.message ?? "no reason given"}`});
    this.worker.onmessageerror = () => this.fail({kind: "page", message: "this browser cannot share compiled WebAssembly"});
  }

  ask(message) {
    return new Promise((resolve, reject) => {
      this.waiting = {resolve, reject};
      if (this.ended) return this.fail({kind: "page", message: "was ended"});
      this.worker.postMessage({id: ++this.serial, ...message});
    });
  }

  fail(error) {
    this.waiting?.reject(new VisitError(error));
    this.waiting = null;
  }

  end() {
    this.ended = true;
    this.worker.terminate();
    this.fail({kind: "page", message: "was ended"});
  }
}
