// The clip as a file: GIF in every browser, and MP4 or WebM where the browser can encode video.

const SHORT_SIDE = 256;  // small clips are enlarged by a whole factor

/** RGBA pixels of a frame, enlarged, as {data, width, height}. */
function enlarge(image, factor) {
  const width = image.width * factor, height = image.height * factor;
  const from = new Uint32Array(image.data.buffer, image.data.byteOffset, image.width * image.height);
  const to = new Uint32Array(width * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) to[y * width + x] = from[Math.floor(y / factor) * image.width + Math.floor(x / factor)];
  return {data: new Uint8ClampedArray(to.buffer), width, height};
}

function enlarged(images) {
  const factor = Math.ceil(SHORT_SIDE / Math.min(images[0].width, images[0].height));
  return images.map((image) => enlarge(image, factor));
}

const GRAYS = Array.from({length: 256}, (_, gray) => [gray, gray, gray]);

/** An endless GIF. Gray clips are exact, colors are reduced to 256 a frame. */
export async function gif(images, clip) {
  const {GIFEncoder, applyPalette, quantize} = await import("../libraries/gifenc.js");
  const encoder = GIFEncoder();
  for (const [i, {data, width, height}] of enlarged(images).entries()) {
    const palette = clip.channels === 1 ? GRAYS : quantize(data, 256);
    const pixels = clip.channels === 1 ? data.filter((_, at) => at % 4 === 0) : applyPalette(data, palette);
    // Delays are hundredths of a second; rounding their sum keeps the length of the clip. Browsers slow down below 2.
    const at = (frame) => Math.round(100 * frame / clip.fps), delay = 10 * Math.max(2, at(i + 1) - at(i));
    encoder.writeFrame(new Uint8Array(pixels), width, height, {palette, delay, repeat: 0});
  }
  encoder.finish();
  return new Blob([encoder.bytes()], {type: "image/gif"});
}

const BITRATE = 8e6;
const even = (size) => size + size % 2;  // H.264 needs even sides

/** Whether this browser can encode video; only a secure page (https or localhost) may. */
export const canEncode = () => "VideoEncoder" in globalThis;

/** An MP4 file, or WebM where the browser does not encode H.264; null if it encodes neither. */
export async function video(images, clip) {
  const {BufferTarget, CanvasSource, getFirstEncodableVideoCodec, Mp4OutputFormat, Output, WebMOutputFormat} = await import("../libraries/mediabunny.js");
  const large = enlarged(images), canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  Object.assign(canvas, {width: even(large[0].width), height: even(large[0].height)});
  const codec = await getFirstEncodableVideoCodec(["avc", "vp9", "vp8", "av1"], {width: canvas.width, height: canvas.height, bitrate: BITRATE});
  if (!codec) return null;
  const format = codec === "avc" ? new Mp4OutputFormat() : new WebMOutputFormat();
  const output = new Output({format, target: new BufferTarget()}), source = new CanvasSource(canvas, {codec, bitrate: BITRATE});
  output.addVideoTrack(source, {frameRate: clip.fps});
  await output.start();
  for (const [i, {data, width, height}] of large.entries()) {
    const image = new ImageData(data, width, height);
    context.putImageData(image, canvas.width - width, canvas.height - height);  // an odd side repeats its first line
    context.putImageData(image, 0, 0);
    await source.add(i / clip.fps, 1 / clip.fps);
  }
  await output.finalize();
  return new Blob([output.target.buffer], {type: format.mimeType});
}

/** Let the browser save a file. */
export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60e3);
}
