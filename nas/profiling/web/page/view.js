// What the page shows, and whether the screen stays on.

const at = (id) => document.getElementById(id);

export const view = {
  show({title, detail, space}) {
    if (space !== undefined) at("space").textContent = space;
    if (title !== undefined) { at("title").textContent = title; document.title = title; }
    if (detail !== undefined) at("detail").textContent = detail;
  },
  progress({done, total, share, left_s: left, unit = "measured"}) {
    at("fill").style.width = `${100 * share}%`;
    at("bar").setAttribute("aria-valuenow", String(Math.round(100 * share)));
    at("count").textContent = total ? `${done} of ${total} ${unit}` : "";
    at("left").textContent = left === null || done === total ? "" : `${duration(left)} left`;
  },
  problem(text) {
    at("problem").hidden = !text;
    at("problem").textContent = text ?? "";
  },
  note(text) { at("note").textContent = text; },
  device(about, {engine, wasm, threads}) {
    at("browser").textContent = `${engine}; WebAssembly with ${wasm}; ${threads === 1 ? "one thread" : threads + " threads"}`;
    at("clock").textContent = `${Number((about.clock_ms * 1000).toPrecision(2))} microseconds`
      + (about.isolated ? "" : " (finer over https or on localhost)");
  },
  button(text, onClick) {
    const button = Object.assign(document.createElement("button"), {textContent: text, type: "button"});
    button.addEventListener("click", onClick);
    at("actions").append(button);
    at("actions").hidden = false;
    return button;
  },
};

export function duration(seconds) {
  if (seconds < 90) return "about a minute";
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} minutes`;
  return `about ${Math.round(seconds / 3600)} hours`;
}

// Keeps the screen on where the browser can; `state` is what a table records.
export const screen = {
  state: "unknown",
  wanted: false,
  lock: null,
  async keepOn() {
    this.wanted = true;
    if (!("wakeLock" in navigator)) {
      this.set("not kept on", isSecureContext ? "this browser cannot keep it on: set the longest time before it turns off"
        : "this page cannot keep it on without https: set the longest time before it turns off");
      return;
    }
    if (document.hidden || (this.lock && !this.lock.released)) return;
    try {
      this.lock = await navigator.wakeLock.request("screen");
      this.lock.addEventListener("release", () => this.set("not kept on", "may turn off"));
      if (!this.wanted) return this.release();
      this.set("kept on", "kept on while this page is in front");
    } catch {
      this.set("not kept on", "the phone refused to keep it on (low battery?): set the longest time before it turns off");
    }
  },
  release() {
    this.wanted = false;
    this.lock?.release().catch(() => {});
    this.lock = null;
  },
  set(state, text) {
    this.state = state;
    at("screen").textContent = text;
  },
};
document.addEventListener("visibilitychange", () => { if (!document.hidden && screen.wanted) screen.keepOn(); });

// Resolves when the page is in front.
export function inFront() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const check = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", check);
      resolve();
    };
    document.addEventListener("visibilitychange", check);
  });
}
