// Measures for the machine that serves this page: asks it what to run next, and sends the answer back.
import {describe, Measurer} from "./measure.js";
import {inFront, screen, view} from "./view.js";

const ALIVE_MS = 2000, RETRY_MS = 2000;
const LOST = "The machine that serves this page does not answer. Is 'nas profile' still running, and is this phone in the same network?";
const STEPS = {loading: "Loading", "warming up": "Warming up", timing: "Timing"};
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const randomId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const page = randomId(), phone = location.hash.slice(1) || storedId();
let measurer, about, title = "", job = null, ended = false;

// Tells two phones apart, and a reloaded page from another phone.
function storedId() {
  try {
    const id = localStorage.getItem("nas-phone") ?? randomId();
    localStorage.setItem("nas-phone", id);
    return id;
  } catch {
    return randomId();
  }
}

// The status and the answer of a request; status 0 if the machine does not answer.
async function post(path, message) {
  try {
    const response = await fetch(path, {method: "POST", body: JSON.stringify({page, ...message})});
    const text = await response.text();
    return {status: response.status, body: text && response.headers.get("Content-Type") === "application/json" ? JSON.parse(text) : {problem: text}};
  } catch {
    return {status: 0, body: {}};
  }
}

async function connect() {
  for (;;) {
    const {status, body} = await post("hello", {phone, about, screen: screen.state});
    if (status === 200) {
        view.problem("");
      view.show({space: body.device, title: "Waiting", detail: "The machine is preparing the next workload."});
      view.device(about, body);
      return;
    }
    if (status === 410) return end(body.message);
    view.show({title: "Not connected", detail: ""});
    view.problem(status === 0 ? LOST : status === 404 ? "This address is out of date; open the one that 'nas profile' shows now." : body.problem);
    await pause(RETRY_MS);
  }
}

function end(message) {
  ended = true;
  screen.release();
  view.problem("");
  view.show({title: "Done", detail: message});
  view.note("You can close this tab.");
}

async function run(command) {
  await inFront();
  job = command.job;
  title = command.title;
  view.show({title: title || "Measuring"});
  let answer;
  try {
    answer = {ok: await measurer.visit(command.visit)};
  } catch (error) {
    answer = {error: {kind: error.kind ?? "page", message: String(error.message ?? error).slice(0, 300)}};
  }
  const posted = {job: command.job, screen: screen.state, ...answer};
  job = null;
  view.show({detail: ""});
  for (;;) {
    const {status, body} = await post("answer", posted);
    if (status) {
      view.problem(status === 400 ? `The machine refused a result: ${body.problem}` : "");
      return;
    }
    view.problem(LOST);
    await pause(RETRY_MS);
  }
}

// Tells the machine that the page lives while a workload runs, and learns whether it is still wanted.
async function stayAlive() {
  while (!ended) {
    await pause(ALIVE_MS);
    const running = job;
    const {status, body} = await post("alive", {job: running, hidden: document.hidden, screen: screen.state});
    if (status === 200) view.progress(body.progress);
    if (status === 200 && running !== null && running === job && !body.wanted) measurer.cancel();
  }
}

for (const kind of ["error", "unhandledrejection"])
  addEventListener(kind, (event) => view.problem(`This page failed: ${event.message ?? event.reason?.message}. Reload it.`));
addEventListener("pagehide", () => { navigator.sendBeacon("bye", JSON.stringify({page})); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

about = await describe();
measurer = new Measurer({library: new URL("library/", location.href).href, clockMs: about.clock_ms,
  onStep: (step) => view.show({detail: STEPS[step]})});
await screen.keepOn();
await connect();
stayAlive();
while (!ended) {
  const {status, body} = await post("next", {hidden: document.hidden, screen: screen.state});
  if (status === 200) {
    view.problem("");
    view.progress(body.progress);
    if (body.visit) await run(body);
  } else if (status === 410) {
    end(body.message);
  } else if (status === 409) {  // another tab or phone took over; two pages that both came back would take turns
    end("");
    view.show({title: "Stopped"});
    view.problem(body.problem);
  } else {
    view.problem(status === 0 || status === 404 ? LOST : body.problem);
    await pause(RETRY_MS);
    if (status === 404) await connect();
  }
}
