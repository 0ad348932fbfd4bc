// The sampling loop and the decoder loop of export.json. `nas/export/app.py` describes every field.
import {Generator, seedOf} from "./random.js";

const count = (shape) => shape.reduce((product, size) => product * size, 1);

/**
 * Sample latents.
 * @param app the description in export.json
 * @param seed a BigInt
 * @param denoise (x, timestep, empty) -> the denoiser's output for the prompt, or for the empty prompt
 * @param onStep called with the number of finished steps
 * @returns Float32Array of app.latents.shape
 */
export async function sample(app, seed, denoise, onStep = () => {}) {
  const {steps, guidance, initial_scale} = app.sampling, size = count(app.latents.shape);
  const renoising = new Generator(seedOf(seed, 0, steps.length));
  const x = new Generator(seedOf(seed, 0)).randn(size).map((value) => value * initial_scale);
  for (const [done, step] of steps.entries()) {
    const input = x.map((value) => value * step.input_scale);
    const prediction = await denoise(input, step.timestep, false);
    const without = guidance === 1 ? null : await denoise(input, step.timestep, true);
    const noise = step.noise === 0 ? null : renoising.randn(size);
    for (let i = 0; i < size; i++) {
      const guided = without ? without[i] + guidance * (prediction[i] - without[i]) : prediction[i];
      x[i] = step.keep * x[i] + step.add * guided + (noise ? step.noise * noise[i] : 0);
    }
    onStep(done + 1);
  }
  return x;
}

/** Frames `start` to `start + frames` of latents (1, C, T, h, w). */
export function latentFrames(latents, shape, start, frames) {
  const [, channels, length, height, width] = shape, plane = height * width;
  const part = new Float32Array(channels * frames * plane);
  for (let c = 0; c < channels; c++) {
    const from = (c * length + start) * plane;
    part.set(latents.subarray(from, from + frames * plane), c * frames * plane);
  }
  return part;
}

/**
 * Decode latents part by part.
 * @param decode {input name: Float32Array} -> {output name: Float32Array}
 * @yields RGBA frames, Uint8ClampedArray each
 */
export async function* decodeFrames(app, latents, decode) {
  const {frames, runs, state, drop_first = 0} = app.decoding;
  const inputs = new Map(app.models.decoder.inputs.map((port) => [port.name, port]));
  let carried = Object.fromEntries(state.map((name) => [name, new Float32Array(count(inputs.get(name).shape))]));
  let drop = drop_first;
  for (let run = 0; run < runs; run++) {
    const part = latentFrames(latents, app.latents.shape, run * frames, frames);
    const outputs = await decode({latents: part, ...carried});
    carried = Object.fromEntries(state.map((name) => [name, outputs[`${name}_out`]]));
    for (const image of images(outputs.video, app.clip)) {
      if (drop > 0) drop--;
      else yield image;
    }
  }
}

/** Pixels (1, channels, T, H, W) -> T RGBA images. */
function* images(video, clip) {
  const plane = clip.height * clip.width, length = video.length / (plane * clip.channels);
  if (!video.every(Number.isFinite)) throw new Error("The model returned NaN or infinity.");
  for (let t = 0; t < length; t++) {
    const image = new Uint8ClampedArray(4 * plane).fill(255);
    for (let c = 0; c < 3; c++) {
      const from = ((clip.channels === 1 ? 0 : c) * length + t) * plane;
      for (let i = 0; i < plane; i++) {
        const value = Math.min(clip.maximum, Math.max(clip.minimum, video[from + i]));
        image[4 * i + c] = (value + 1) * 127.5;  // the array rounds, halves to even as numpy does
      }
    }
    yield image;
  }
}
