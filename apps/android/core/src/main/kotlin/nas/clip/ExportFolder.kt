package nas.clip

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/** An error that the user can fix; its message names the file and the field. */
class ClipError(message: String) : Exception(message)

/** An input or output of a model. */
data class Port(val name: String, val shape: List<Int>, val dtype: String) {
    val size: Int get() = shape.fold(1, Int::times)
}

data class ModelFile(val file: File, val sizeMb: Double, val inputs: List<Port>, val outputs: List<Port>) {
    fun input(name: String): Port = find(inputs, name)

    /** Throws [ClipError] if the file is not there as a whole; LiteRT does not check a model that was copied in part. */
    fun checkComplete() {
        if (!file.exists()) throw ClipError("$file: cannot be read; copy the export folder again")
        if (file.length() != Math.round(sizeMb * 1e6)) {
            throw ClipError("$file: has another size than export.json says; copy or export the folder again")
        }
    }

    private fun find(ports: List<Port>, name: String): Port =
        ports.find { it.name == name } ?: throw ClipError("export.json: ${file.name} has no '$name'; export again")
}

/** `x = keep * x + add * prediction + noise * normal noise`. */
data class Step(val timestep: Float, val inputScale: Float, val keep: Float, val add: Float, val noise: Float)

data class Sampling(val sampler: String, val guidance: Float, val initialScale: Float, val steps: List<Step>) {
    companion object {
        fun read(json: JSONObject) = Sampling(
            json.getString("sampler"),
            json.float("guidance"),
            json.float("initial_scale"),
            json.getJSONArray("steps").objects().map {
                Step(it.float("timestep"), it.float("input_scale"), it.float("keep"), it.float("add"), it.float("noise"))
            },
        )
    }
}

data class Decoding(val frames: Int, val runs: Int, val videoFrames: Int, val dropFirst: Int, val state: List<String>)

data class ClipSize(
    val frames: Int,
    val height: Int,
    val width: Int,
    val channels: Int,
    val fps: Double,
    val minimum: Float,
    val maximum: Float,
)

/**
 * The entry `litert` of `export.json`, see nas/exported/app.py.
 *
 * @property weights the hash that identifies the exported denoiser.
 */
class ExportFolder private constructor(private val folder: File, app: JSONObject, val weights: String) {
    val textEncoder = model(app, "text_encoder")
    val denoiser = model(app, "denoiser")
    val decoder = model(app, "decoder")
    val sampling = Sampling.read(app.getJSONObject("sampling"))

    /** `(1, C, T, h, w)`. */
    val latents: List<Int> = app.getJSONObject("latents").getJSONArray("shape").ints()
    val decoding: Decoding = app.getJSONObject("decoding").let {
        val frames = it.getInt("frames")
        val videoFrames = if (it.isNull("video_frames")) frames else it.getInt("video_frames")
        val state = it.optJSONArray("state") ?: JSONArray()
        Decoding(frames, it.optInt("runs", 1), videoFrames, it.optInt("drop_first", 0), state.strings())
    }
    val clip: ClipSize = app.getJSONObject("clip").let {
        val (minimum, maximum) = it.optDouble("minimum", -1.0) to it.optDouble("maximum", 1.0)
        val (height, width) = it.getInt("height") to it.getInt("width")
        val fps = it.getDouble("fps")
        ClipSize(it.getInt("frames"), height, width, it.getInt("channels"), fps, minimum.toFloat(), maximum.toFloat())
    }
    val tokens: Int
    val tokenizer: File
    val emptyContext: FloatArray

    init {
        val prompt = app.getJSONObject("prompt")
        tokens = prompt.getInt("tokens")
        tokenizer = File(File(folder, prompt.getString("folder")), "tokenizer.json")
        emptyContext = floats(File(folder, prompt.getString("empty_context")))
        require(sampling.steps.isNotEmpty(), "sampling.steps: is empty")
        require(decoding.runs * decoding.frames == latents[2], "decoding: runs x frames differ from the latents' frames")
        val frames = decoding.runs * decoding.videoFrames - decoding.dropFirst
        require(clip.frames == frames, "clip.frames: differs from what decoding gives")
        require(emptyContext.size == denoiser.input("context").size, "prompt.empty_context: has another size than context")
    }

    private fun require(valid: Boolean, fault: String) {
        if (!valid) throw ClipError("$folder/export.json: $fault; export again")
    }

    private fun model(app: JSONObject, name: String): ModelFile {
        val entry = app.getJSONObject("models").getJSONObject(name)
        val ports = { kind: String ->
            entry.getJSONArray(kind).objects().map {
                Port(it.getString("name"), it.getJSONArray("shape").ints(), it.getString("dtype"))
            }
        }
        val file = File(folder, entry.getString("file"))
        return ModelFile(file, entry.getDouble("size_mb"), ports("inputs"), ports("outputs"))
    }

    companion object {
        private const val SCHEMA_VERSION = 1

        /** Throws [ClipError] if the folder is not an export for LiteRT. */
        fun read(folder: File): ExportFolder {
            val file = File(folder, "export.json")
            try {
                val root = JSONObject(file.readText())
                if (root.optInt("schema_version") != SCHEMA_VERSION) {
                    throw ClipError("$file: schema_version: this app reads version 1; use the app of the same release")
                }
                val entry = root.optJSONObject("litert")
                    ?: throw ClipError("$file: has no entry 'litert'; run 'nas export --format litert'")
                val weights = entry.getJSONObject("checkpoint").optString("weights_sha256")
                return ExportFolder(folder, entry.getJSONObject("app"), weights)
            } catch (error: IOException) {
                throw ClipError("$file: cannot be read; it needs what 'nas export --format litert' wrote")
            } catch (error: JSONException) {
                throw ClipError("$file: ${error.message}; export again")
            }
        }

        /** Little-endian float32. */
        private fun floats(file: File): FloatArray {
            val buffer = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            return FloatArray(buffer.remaining()).also { buffer.get(it) }
        }
    }
}

internal fun JSONObject.float(name: String): Float = getDouble(name).toFloat()

internal fun JSONArray.objects(): List<JSONObject> = List(length()) { getJSONObject(it) }

internal fun JSONArray.ints(): List<Int> = List(length()) { getInt(it) }

internal fun JSONArray.strings(): List<String> = List(length()) { getString(it) }
