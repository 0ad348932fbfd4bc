// Measures a bundle without the machine that made it: visits every workload in shuffled rounds, and keeps the results in
// this browser until they are downloaded for 'nas bundle collect'.
import {describe, Measurer, VisitError} from "./measure.js";
import {sha256} from "./sha256.js";
import {inFront, screen, view} from "./view.js";

const ROUNDS = Number(new URLSearchParams(location.search).get("rounds")) || 8;
const SAMPLES = 5, WARM_MS = 300, RETRIES = 3, KILLED = 3, KILLED_SMALL = 10, SMALL_MB = 100;
const STEPS = {loading: "Loading", "warming up": "Warming up", timing: "Timing"};
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

// Results by visit, in the browser's storage; in memory only where the browser has none.
class Results {
  constructor(bundle) {
    this.prefix = `nas:${bundle}:`;
    try {
      localStorage.setItem(`${this.prefix}test`, "");
      localStorage.removeItem(`${this.prefix}test`);
      this.storage = localStorage;
    } catch {
      const kept = new Map();
      this.storage = {getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key)};
      this.lost = true;
    }
  }
  get(key) { return this.storage.getItem(this.prefix + key); }
  set(key, value) { this.storage.setItem(this.prefix + key, value); }
  remove(key) { this.storage.removeItem(this.prefix + key); }
}

// The order of a round; the same after a reload.
function shuffled(count, round) {
  const order = [...Array(count).keys()];
  let state = 2654435761 * (round + 1) >>> 0;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = Math.floor(state / 2 ** 32 * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

const title = (workload) => workload.replace(/\[.*?\]/, "").replace(/ (float|text).*$/, "").replace(" ", " at ");

const response = await fetch("manifest.json");
const manifest = await response.json();
const about = await describe();
const build = about.relaxed_simd ? "" : "compat";
const results = new Results(manifest.bundle);
const measurer = new Measurer({library: new URL("library/", location.href).href, clockMs: about.clock_ms,
  onStep: (step) => view.show({detail: STEPS[step]})});
const packages = manifest.packages;
const plan = Array.from({length: ROUNDS}, (_, round) => shuffled(packages.length, round).map((number) => [round, number])).flat();
let referenceMs = 0, skipped = new Set(), running = null, finished = 0, measuredSince = performance.now(), begunWith = 0;

// The lines of the results file.
function lines() {
  return plan.map((visit) => results.get(visit)).filter(Boolean).map((record) =>
    JSON.stringify({bundle: manifest.bundle, digest: sha256(`${manifest.bundle}\n${record}`), record}) + "\n");
}

function download() {
  const url = URL.createObjectURL(new Blob(lines(), {type: "application/jsonl"}));
  Object.assign(document.createElement("a"), {href: url, download: "results.jsonl"}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

function showProgress() {
  const share = finished / plan.length, spent = (performance.now() - measuredSince) / 1000;
  const left = finished - begunWith >= 5 ? spent * (plan.length - finished) / (finished - begunWith) : null;
  view.progress({done: finished, total: plan.length, share, left_s: left, unit: "visits"});
  downloading.disabled = !finished;
}

async function timed(models, extra = {}) {
  for (let tries = 1;;) {
    await inFront();
    try {
      const result = await measurer.visit({models, samples: SAMPLES, build, threads: 1, warmMs: WARM_MS, ...extra});
      if (result.undisturbed) return result;
    } catch (error) {
      if (error.kind !== "page" || ++tries > RETRIES) throw error;
    }
  }
}

async function probe() {
  const {models: [model]} = await timed([manifest.reference.path], {keep: "reference"});
  return median(model.samples_ms);
}

async function visit([round, number]) {
  const {workload, path, several} = packages[number];
  const models = several ? [path, several] : [path];
  const record = {visit: [round, number], workload, about, screen: screen.state, build};
  view.show({title: title(workload)});
  // A workload that needs little memory is hardly the reason why a browser ends a page.
  const limit = packages[number].activations_mb + 3 * packages[number].weights_mb < SMALL_MB ? KILLED_SMALL : KILLED;
  if (Number(results.get(`killed:${number}`)) >= limit)
    return {...record, error: {kind: "memory", message: `the browser ended the page ${limit} times while it ran`}};
  try {
    const loaded = [];
    if (round === 0) for (const model of models) loaded.push((await timed([model], {samples: 0})).models[0]);
    const result = await timed(models);
    const before = referenceMs;
    referenceMs = await probe();
    return {...record, loaded, result, reference_ms: Math.max(before, referenceMs)};
  } catch (error) {
    if (!(error instanceof VisitError) || error.kind === "page") throw error;
    return {...record, error: {kind: error.kind, message: String(error.message).slice(0, 300)}};
  }
}

async function measure() {
  await screen.keepOn();
  // A visit that was running when the page ended without a word killed it, probably for lack of memory.
  const killer = results.get("running");
  if (killer !== null) results.set(`killed:${killer}`, String(Number(results.get(`killed:${killer}`)) + 1));
  results.remove("running");
  for (const step of plan) {
    const stored = results.get(step);
    if (stored) {
      finished++;
      if (JSON.parse(stored).error) skipped.add(step[1]);
    }
  }
  begunWith = finished;
  measuredSince = performance.now();
  showProgress();
  if (finished < plan.length) referenceMs = await probe();
  for (const step of plan) {
    if (results.get(step)) continue;
    if (!skipped.has(step[1])) {
      running = step[1];
      results.set("running", String(running));
      const record = await visit(step);
      if (record.error) skipped.add(step[1]);
      results.set(step, JSON.stringify(record));
      for (const key of ["running", `killed:${step[1]}`]) results.remove(key);
      running = null;
    }
    finished++;
    showProgress();
  }
  screen.release();
  view.show({title: "Done", detail: "Download the results, and put the file into the bundle's folder."});
}

addEventListener("pagehide", () => { if (running !== null) results.remove("running"); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

view.show({space: `Workloads of ${manifest.space}`, title: "Ready", detail: `${packages.length} workloads, ${ROUNDS} visits each.`});
view.device(about, {engine: about.browser || navigator.userAgent.split(" ").pop(), wasm: build ? "SIMD" : "relaxed SIMD", threads: 1});
view.note("Measures with this browser alone; nothing is sent anywhere. You may close this tab or let the phone sleep: measuring "
  + "continues when you open this page again. Keep it in front while it measures, with other apps closed and no fast charger.");
screen.set("unknown", "");
const begun = plan.some((step) => results.get(step)) || results.get("running") !== null;
let starting;
if (!begun) starting = view.button("Start", start);
const downloading = view.button("Download the results", download);
downloading.disabled = !begun;
if (results.lost) view.problem("This browser keeps nothing (a private window?): do not close the page before you have downloaded the results.");

async function start() {
  starting?.remove();
  try {
    await measure();
  } catch (error) {
    view.show({title: "Stopped", detail: ""});
    view.problem(`${error.message}. Reload this page to continue; what is measured is kept.`);
  }
}
if (begun) await start();
