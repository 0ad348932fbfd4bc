// The page: its form, progress, times and messages.
import {readManifest, VideoGenerator} from "./generator.js";
import {Player} from "./player.js";
import {accelerators, PageError} from "./runtime.js";
import {canEncode, download, gif, video} from "./save.js";

const $ = (id) => document.getElementById(id);
const RUNNING = "nas-running";  // in sessionStorage while a clip is generated: left there if the browser killed the page
const NAMES = {text_encoder: "Text encoder", denoiser: "Denoiser", decoder: "Decoder"};

let manifest, choices, player, generator = null, running = false, name = "clip";

// -- messages ---------------------------------------------------------------------------------------------------------

function say(text, share) {
  if (text) $("status").textContent = text;
  $("progress").hidden = false;
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

function rest(text) {
  $("status").textContent = text;
  $("progress").hidden = true;
}

function warn(text, detail = "") {
  $("problem").textContent = text;
  if (detail) $("problem").append(Object.assign(document.createElement("small"), {textContent: detail}));
  $("problem").hidden = !text;
}

function note(...texts) {
  $("note").replaceChildren(...texts.filter(Boolean).map((text) => Object.assign(document.createElement("p"), {textContent: text})));
  $("note").hidden = !texts.some(Boolean);
}

const duration = (ms) => ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const megabytes = (size) => `${size.toFixed(size < 10 ? 1 : 0)} MB`;

function showTimes({times, totalMs}) {
  const {frames, fps} = manifest.app.clip, seconds = totalMs / 1000;
  const rate = frames / seconds, length = frames / fps;
  const facts = [["Made in", duration(totalMs)], ["Frames/s", rate.toFixed(rate < 1 ? 3 : rate < 10 ? 1 : 0)],
    ["Clip", `${length.toFixed(Number.isInteger(length) ? 0 : 1)} s at ${fps} fps`]];
  $("headline").replaceChildren(...facts.map(([term, value]) => entry(term, value)));
  const rows = Object.entries(times).map(([part, ms]) => [NAMES[part], ms.length > 1 ? `${ms.length} × ${duration(sum(ms) / ms.length)}` : "", sum(ms)]);
  rows.push(["Other", "", totalMs - sum(rows.map((row) => row[2]))]);
  const body = $("times").tBodies[0];
  body.replaceChildren();
  for (const [part, runs, ms] of rows) {
    const row = body.insertRow();
    row.append(Object.assign(document.createElement("th"), {scope: "row", textContent: part}));
    row.insertCell().textContent = runs;
    row.insertCell().textContent = duration(ms);
    const bar = Object.assign(document.createElement("span"), {className: "bar"});
    bar.style.setProperty("--share", ms / totalMs);
    row.insertCell().append(bar);
  }
  $("headline").hidden = $("times").hidden = false;
}

function entry(term, value) {
  const div = document.createElement("div");
  div.append(Object.assign(document.createElement("dt"), {textContent: term}), Object.assign(document.createElement("dd"), {textContent: value}));
  return div;
}

function fail(error) {
  if (error.kind === "stopped") return rest("Stopped.");
  rest("Not finished.");
  warn(error instanceof PageError ? error.message : `The model cannot run here: ${error.message}`, error.detail);
}

// -- running ----------------------------------------------------------------------------------------------------------

/** The generator for the chosen accelerator, with its models loaded or being loaded. */
function prepared() {
  if (!generator || generator.closed) {
    const choice = choices.find(({id}) => id === $("accelerator").value);
    const mine = generator = new VideoGenerator(manifest.app, choice, (text, share) => generator === mine && say(text, share));
  }
  return generator;
}

/** Load the models ahead, so that the first clip comes sooner. */
async function preload() {
  const mine = prepared();
  try {
    await mine.prepare();
    if (generator === mine && !running) rest(mine.keepAll ? `Ready. Loaded in ${duration(mine.loadMs)}.` : "Ready.");
  } catch (error) {
    mine.close();
    if (generator !== mine || running) return;
    if (error.kind !== "stopped" && error.kind !== "file" && fallBack(error)) return preload();
    fail(error);
  }
}

/** Choose one thread instead of what failed to start; false if there is nothing else to choose. */
function fallBack(error) {
  if ($("accelerator").value === "wasm") return false;
  const label = $("accelerator").selectedOptions[0].textContent;
  $("accelerator").value = "wasm";
  note(`${label} did not start here (${error.detail || error.message}), so one thread is used.`);
  return true;
}

async function generate() {
  const prompt = $("prompt").value.trim(), seed = $("seed").value.trim();
  warn("");
  if (!prompt) return refuse("prompt", "Describe the clip first.");
  if (!/^-?\d{1,18}$/.test(seed)) return refuse("seed", "The seed must be a whole number of at most 18 digits.");
  note();
  running = true;
  const mine = prepared();
  let lock = null;
  $("generate").textContent = "Stop";
  say("Starting", null);
  $("headline").hidden = $("times").hidden = true;
  document.activeElement?.blur();  // closes a phone's keyboard
  player.clear();
  $("stage").scrollIntoView({block: "nearest", behavior: "smooth"});
  try {
    sessionStorage.setItem(RUNNING, "1");
    lock = await navigator.wakeLock?.request("screen").catch(() => null);  // a sleeping phone stops the page
    let hidden = document.hidden;
    const watch = () => (hidden ||= document.hidden);
    document.addEventListener("visibilitychange", watch);
    const result = await mine.generate(prompt.toWellFormed?.() ?? prompt, BigInt(seed), (frame) => player.add(frame));
    document.removeEventListener("visibilitychange", watch);
    player.finish();
    name = `${prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 40) || "clip"}-${seed}`;
    showTimes(result);
    rest("Done.");
    note(result.dropped && `The model reads ${manifest.app.prompt.tokens} tokens: the end of the prompt (${result.dropped} tokens) was not used.`,
      mine.fallbacks.length && `The GPU cannot run the ${mine.fallbacks.join(", ")} completely: the CPU did.`,
      hidden && "The page was in the background for a while, where browsers slow it down: the times are not representative.");
  } catch (error) {
    mine.close();
    player.clear();
    $("stage").dataset.state = "";
    $("strip").replaceChildren();
    if (generator === mine) fail(error);  // else another accelerator was chosen, which is being prepared
  } finally {
    sessionStorage.removeItem(RUNNING);
    lock?.release();
    running = false;
    $("generate").textContent = "Generate";
  }
}

function refuse(field, text) {
  warn(text);
  $(field).focus();
}

// -- the form ---------------------------------------------------------------------------------------------------------

$("form").onsubmit = (event) => {
  event.preventDefault();
  if (!manifest || $("generate").disabled) return;
  if (running) generator.close();
  else generate();
};
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) $("form").requestSubmit();
  }
};
$("new-seed").onclick = () => {
  $("seed").value = Math.floor(Math.random() * 1e6);
};
$("accelerator").onchange = () => {
  if (running) generator.close();
  generator?.close();
  generator = null;
  warn("");
  note();
  preload();
};

async function saveAs(button, make, problem) {
  button.disabled = true;
  try {
    const blob = await make(player.frames, manifest.app.clip);
    if (blob) download(blob, `${name}.${{"image/gif": "gif", "video/mp4": "mp4"}[blob.type] ?? "webm"}`);
    else warn(problem);
  } catch (error) {
    warn(`${problem} (${error.message})`);
  } finally {
    button.disabled = false;
  }
}
$("save-gif").onclick = () => saveAs($("save-gif"), gif, "The GIF cannot be made.");
$("save-video").onclick = () => saveAs($("save-video"), video, "This browser cannot encode a video of this size: save the GIF.");

// -- start ------------------------------------------------------------------------------------------------------------

function describe() {
  const {app, checkpoint, library} = manifest, {clip, sampling, models} = app, size = sum(Object.values(models).map((model) => model.size_mb));
  $("about").textContent = `The model “${checkpoint.space}” (${megabytes(size)}) runs in this browser. Nothing that you type leaves it.`;
  const facts = {
    "Clip": `${clip.frames} frames of ${clip.width} × ${clip.height} pixels, ${clip.fps} fps`,
    "Denoising steps": `${sampling.steps.length}${sampling.guidance === 1 ? "" : `, guidance ${sampling.guidance}`}, sampler ${sampling.sampler}`,
    "Prompt": `up to ${app.prompt.tokens} tokens`,
    "Models": Object.entries(models).map(([part, model]) => `${(NAMES[part] ?? part).toLowerCase()} ${megabytes(model.size_mb)}`).join(", "),
    "Trained in": `stage ${checkpoint.stage}`,
    "Temporal layers": Object.entries(checkpoint.architecture).filter(([, choice]) => choice !== "none").map(([slot, choice]) => `${slot} ${choice}`).join(", ") || "none",
    "Exported by": `nas ${library}`,
    ...(app.warnings?.length && {"Warnings": app.warnings.join(" ")}),
  };
  $("details").replaceChildren(...Object.entries(facts).map(([term, value]) => entry(term, value)));
  const {examples = []} = app.prompt;
  $("examples").replaceChildren(...examples.map((text) => Object.assign(document.createElement("button"), {
    type: "button", textContent: text, onclick: () => { $("prompt").value = text; },
  })));
  $("examples").hidden = !examples.length;
  note(...(app.warnings ?? []));
  const typing = document.activeElement === $("prompt");
  if (!$("prompt").value && !typing) $("prompt").value = examples[0] ?? "";
}

function offer() {
  $("accelerator").replaceChildren(...choices.map(({id, label, missing}) =>
    Object.assign(document.createElement("option"), {value: id, textContent: missing ? `${label}: ${missing}` : label, disabled: Boolean(missing)})));
  $("accelerator").value = choices.find(({missing}) => !missing).id;
}

async function start() {
  try {
    [manifest, choices] = await Promise.all([readManifest(), accelerators()]);
    player = new Player(manifest.app.clip);
    describe();
    offer();
  } catch (error) {
    $("stage").dataset.state = "failed";
    return fail(error);
  }
  $("save-video").hidden = !canEncode();
  $("generate").disabled = false;
  addEventListener("pagehide", () => sessionStorage.removeItem(RUNNING));  // a reload is no crash
  if (sessionStorage.getItem(RUNNING)) {
    sessionStorage.removeItem(RUNNING);
    rest("Ready.");
    warn("The last clip was not finished: the browser ended the page, most likely for lack of memory. Close other tabs and apps before trying again.");
  } else {
    await preload();
  }
}

start();
