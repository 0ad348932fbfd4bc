// Shows a clip: a canvas that plays it, a slider, and a strip of its frames.
const $ = (id) => document.getElementById(id);

export class Player {
  #context = $("clip").getContext("2d");
  #timer = null;

  constructor(clip) {
    this.clip = clip;
    this.frames = [];
    this.shown = 0;
    Object.assign($("clip"), {width: clip.width, height: clip.height});
    $("stage").style.setProperty("--ratio", `${clip.width} / ${clip.height}`);
    $("stage").classList.toggle("pixels", Math.min(clip.width, clip.height) < 200);
    $("play").onclick = () => this.playing ? this.pause() : this.play();
    $("frame").oninput = () => { this.pause(); this.show(Number($("frame").value)); };
    $("clip").onclick = () => this.frames.length > 1 && $("play").click();
  }

  get playing() {
    return this.#timer !== null;
  }

  /** Remove the clip, and show a place for each frame of the next one. */
  clear() {
    this.pause();
    this.frames = [];
    this.#context.clearRect(0, 0, this.clip.width, this.clip.height);
    $("controls").hidden = $("save").hidden = true;
    const most = 48, every = Math.ceil(this.clip.frames / most);  // a long clip's strip shows every n-th frame
    this.every = every;
    $("strip").replaceChildren(...Array.from({length: Math.ceil(this.clip.frames / every)}, (_, i) => {
      const canvas = Object.assign(document.createElement("canvas"), {width: this.clip.width, height: this.clip.height});
      canvas.onclick = () => { if (this.frames[i * every]) { this.pause(); this.show(i * every); } };
      return canvas;
    }));
    $("stage").dataset.state = "waiting";
  }

  /** Add the next frame: RGBA, Uint8ClampedArray. */
  add(pixels) {
    const image = new ImageData(pixels, this.clip.width, this.clip.height), index = this.frames.push(image) - 1;
    if (index % this.every === 0) $("strip").children[index / this.every].getContext("2d").putImageData(image, 0, 0);
    $("strip").children[Math.floor(index / this.every)].classList.add("filled");
    $("stage").dataset.state = "filled";
    this.show(index);
  }

  /** The clip is complete: play it. */
  finish() {
    $("controls").hidden = $("save").hidden = false;
    $("frame").max = this.frames.length - 1;
    this.show(0);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) this.pause();
    else this.play();
  }

  show(index) {
    this.shown = index;
    this.#context.putImageData(this.frames[index], 0, 0);
    $("frame").value = index;
    $("frame-number").textContent = `${index + 1} / ${this.clip.frames}`;
    for (const [i, canvas] of [...$("strip").children].entries())
      canvas.classList.toggle("shown", i === Math.floor(index / this.every));
  }

  play() {
    this.pause();
    if (this.frames.length < 2) return;
    this.#timer = setInterval(() => this.show((this.shown + 1) % this.frames.length), 1000 / this.clip.fps);
    this.#label();
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#label();
  }

  #label() {
    $("play").setAttribute("aria-label", this.playing ? "Pause" : "Play");
    $("play").classList.toggle("playing", this.playing);
  }
}
