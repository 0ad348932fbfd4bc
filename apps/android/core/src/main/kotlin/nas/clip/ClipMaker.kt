package nas.clip

import kotlin.math.round
import org.json.JSONArray
import org.json.JSONObject

/** A loaded model: named inputs to named outputs. */
interface Model : AutoCloseable {
    fun set(input: String, values: FloatArray)

    fun set(input: String, values: IntArray)

    fun run()

    fun get(output: String): FloatArray
}

/** uint8 frames, `frames x height x width x channels`; 1 channel is gray, 3 are sRGB. */
class ClipPixels(val size: ClipSize, val pixels: ByteArray)

/** Milliseconds of each part; `denoiser` and `decoder` of each run, `total` without loading. */
class ClipTimes(
    val load: Map<String, Double>,
    val textEncoder: Double,
    val denoiser: List<Double>,
    val decoder: List<Double>,
    val total: Double,
)

/**
 * Makes a clip from a prompt. The three models are loaded one after the other, so that only one is in memory.
 *
 * @param load loads a model file.
 * @param progress is called with the share of the work that is done, from 0 to 1.
 */
class ClipMaker(
    private val folder: ExportFolder,
    private val load: (ModelFile) -> Model,
    private val progress: (Double) -> Unit = {},
) {
    private val loadTimes = mutableMapOf<String, Double>()
    private val denoiserTimes = mutableListOf<Double>()
    private val decoderTimes = mutableListOf<Double>()

    /** Throws [ClipError] if a model cannot be run, or returns NaN or infinity. */
    fun make(prompt: String, seed: Long): Pair<ClipPixels, ClipTimes> {
        denoiserTimes.clear()
        decoderTimes.clear()
        val tokens = timed("tokenizer") { Tokenizer.read(folder.tokenizer) }.encode(prompt, folder.tokens)
        val (context, encoding) = with("text_encoder", folder.textEncoder) { model ->
            model.set("input_ids", tokens.ids)
            model.set("attention_mask", tokens.mask)
            model.run()
            model.get(folder.textEncoder.outputs.first().name)
        }
        progress(0.1)
        val (latents, sampling) = with("denoiser", folder.denoiser) { denoise(it, context, seed) }
        finite(latents, folder.denoiser)
        val (clip, decoding) = with("decoder", folder.decoder) { decode(it, latents) }
        progress(1.0)
        val total = encoding + sampling + decoding
        return clip to ClipTimes(loadTimes.toMap(), encoding, denoiserTimes.toList(), decoderTimes.toList(), total)
    }

    private fun denoise(model: Model, context: FloatArray, seed: Long): FloatArray {
        val runs = folder.sampling.steps.size * if (folder.sampling.guidance != 1f) 2 else 1
        return sample(folder.sampling, folder.denoiser.input("x").size, seed) { x, timestep, conditional ->
            val (prediction, ms) = timed {
                model.set("x", x)
                model.set("timestep", floatArrayOf(timestep))
                model.set("context", if (conditional) context else folder.emptyContext)
                model.run()
                model.get(folder.denoiser.outputs.first().name)
            }
            denoiserTimes += ms
            progress(0.1 + 0.8 * denoiserTimes.size / runs)
            prediction
        }
    }

    private fun decode(model: Model, latents: FloatArray): ClipPixels {
        val decoding = folder.decoding
        val size = folder.clip
        val pixels = ByteArray(size.frames * size.height * size.width * size.channels)
        for (name in decoding.state) model.set(name, FloatArray(folder.decoder.input(name).size))
        val output = if (decoding.state.isEmpty()) folder.decoder.outputs.first().name else "video"
        for (run in 0 until decoding.runs) {
            val (video, ms) = timed {
                model.set("latents", frames(latents, run * decoding.frames, decoding.frames))
                model.run()
                val video = model.get(output)
                for (name in decoding.state) model.set(name, model.get("${name}_out"))
                video
            }
            decoderTimes += ms
            finite(video, folder.decoder)
            copyPixels(video, run, pixels)
        }
        return ClipPixels(size, pixels)
    }

    /** Latent frames of `(1, C, T, h, w)`. */
    private fun frames(latents: FloatArray, start: Int, count: Int): FloatArray {
        val (_, channels, total, height, width) = folder.latents
        val area = height * width
        val part = FloatArray(channels * count * area)
        for (channel in 0 until channels) {
            val from = (channel * total + start) * area
            latents.copyInto(part, channel * count * area, from, from + count * area)
        }
        return part
    }

    /** `(1, C, T, H, W)` in [minimum, maximum] -> uint8 `(T, H, W, C)` at the run's place in the clip. */
    private fun copyPixels(video: FloatArray, run: Int, pixels: ByteArray) {
        val size = folder.clip
        val area = size.height * size.width
        val frames = folder.decoding.videoFrames
        if (video.size != size.channels * frames * area) {
            throw ClipError("${folder.decoder.file.name}: its output differs from export.json; export again")
        }
        for (frame in 0 until frames) {
            val target = run * frames + frame - folder.decoding.dropFirst
            if (target < 0) continue
            for (channel in 0 until size.channels) {
                for (i in 0 until area) {
                    val value = video[(channel * frames + frame) * area + i].coerceIn(size.minimum, size.maximum)
                    val level = round((value + 1) * 127.5f).toInt()
                    pixels[(target * area + i) * size.channels + channel] = level.toByte()
                }
            }
        }
    }

    private fun finite(values: FloatArray, model: ModelFile) {
        if (values.any { !it.isFinite() }) {
            throw ClipError("${model.file.name}: returns NaN or infinity; export another checkpoint")
        }
    }

    /** The value of `run` and its time in milliseconds; loading is timed apart. */
    private fun <T> with(name: String, file: ModelFile, run: (Model) -> T): Pair<T, Double> =
        timed(name) { load(file) }.use { model -> timed { run(model) } }

    private fun <T> timed(name: String, action: () -> T): T {
        val (value, ms) = timed(action)
        loadTimes[name] = ms
        return value
    }

    private fun <T> timed(action: () -> T): Pair<T, Double> {
        val start = System.nanoTime()
        val value = action()
        return value to (System.nanoTime() - start) / 1e6
    }
}

/** The times as `nas calibrate --clip --timing` reads them. */
fun timingJson(times: ClipTimes, weights: String, threads: Int, seed: Long, peakMemoryMb: Double): String {
    val clip = JSONObject()
        .put("text_encoder_ms", times.textEncoder)
        .put("denoiser_ms", JSONArray(times.denoiser))
        .put("decoder_ms", JSONArray(times.decoder))
        .put("total_ms", times.total)
    return JSONObject()
        .put("schema_version", 1)
        .put("runtime", "litert")
        .put("weights_sha256", weights)
        .put("threads", threads)
        .put("seed", seed)
        .put("load_ms", JSONObject(times.load))
        .put("clips", JSONArray(listOf(clip)))
        .put("peak_memory_mb", peakMemoryMb)
        .toString(2)
}
