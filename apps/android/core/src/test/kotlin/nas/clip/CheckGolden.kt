package nas.clip

import java.io.File
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.tanh
import kotlin.system.exitProcess
import org.json.JSONArray
import org.json.JSONObject
import org.json.JSONTokener

private const val TOLERANCE = 2e-5 // torch's vectorized logarithm and cosine differ by some 1e-6

/**
 * Compares noise, tokens and sampling with the values of apps/golden, which Python computed.
 *
 * With `tokenize TOKENIZER.json LENGTH`, prints the ids of every line of standard input, each a JSON string. With `clip
 * EXPORT_DIR OUT.png`, writes a clip with formulas in place of the models, as tests/apps/test_kotlin.py does.
 */
fun main(arguments: Array<String>) {
    when (arguments.firstOrNull()) {
        "tokenize" -> tokenize(File(arguments[1]), arguments[2].toInt())
        "clip" -> formulaClip(File(arguments[1]), File(arguments[2]))
        else -> exitProcess(checkAll(File(arguments.single())))
    }
}

private fun checkAll(folder: File): Int {
    val golden = JSONObject(File(folder, "golden.json").readText())
    val differing = noise(golden.getJSONArray("noise")) + tokens(golden.getJSONArray("tokens"), folder) +
        sampling(golden.getJSONArray("sampling"))
    differing.forEach { println("differs: $it") }
    println(if (differing.isEmpty()) "golden values agree" else "golden values differ")
    return if (differing.isEmpty()) 0 else 1
}

private fun noise(cases: JSONArray): List<String> = cases.objects().flatMap { case ->
    val numbers = case.getJSONArray("numbers")
    val random = Random(*LongArray(numbers.length()) { numbers.getLong(it) })
    val draws = case.getJSONArray("draws")
    (0 until draws.length()).map { draws.getJSONArray(it) }.filterNot { close(random.normal(it.length()), it) }.map { "noise $numbers" }
}

private fun tokens(cases: JSONArray, folder: File): List<String> = cases.objects().flatMap { case ->
    val tokenizer = Tokenizer.read(File(folder, case.getString("tokenizer")))
    case.getJSONArray("prompts").objects().filterNot { prompt ->
        val tokens = tokenizer.encode(prompt.getString("text"), case.getInt("length"))
        tokens.ids.toList() == prompt.getJSONArray("ids").ints() && tokens.mask.toList() == prompt.getJSONArray("mask").ints()
    }.map { "tokens of ${it.getString("text")}" }
}

private fun sampling(cases: JSONArray): List<String> = cases.objects().filterNot { case ->
    val latents = case.getJSONArray("latents")
    close(sample(Sampling.read(case.getJSONObject("sampling")), latents.length(), case.getLong("seed"), ::formula), latents)
}.map { "sampling ${it.getString("name")}" }

/** The analytic denoiser that apps/golden/make.py evaluates with torch. */
private fun formula(x: FloatArray, timestep: Float, conditional: Boolean) =
    FloatArray(x.size) { tanh(x[it]) * (0.5f + timestep / 2000) + if (conditional) 0.25f else -0.125f }

private fun close(values: FloatArray, expected: JSONArray): Boolean =
    values.size == expected.length() && values.indices.all {
        val target = expected.getDouble(it)
        abs(values[it] - target) <= TOLERANCE * max(1.0, abs(target))
    }

private fun tokenize(file: File, length: Int) {
    val tokenizer = Tokenizer.read(file)
    generateSequence(::readlnOrNull).forEach { line ->
        println(tokenizer.encode(JSONTokener(line).nextValue() as String, length).ids.joinToString(",", "[", "]"))
    }
}

private fun formulaClip(folder: File, out: File) {
    val export = ExportFolder.read(folder)
    val (clip, times) = ClipMaker(export, { FormulaModel(export, it) }).make("the digit three moves left", 3)
    out.outputStream().use { writeAnimatedPng(clip, it) }
    File("$out.json").writeText(timingJson(times, export.weights, 1, 3, 1.0))
}

/** Every value of the outputs is a function of the sums of the inputs, or, for pixels, of the latents at the place. */
private class FormulaModel(val folder: ExportFolder, val file: ModelFile) : Model {
    private val inputs = mutableMapOf<String, FloatArray>()

    override fun set(input: String, values: FloatArray) = check(file.input(input), values.size) { inputs[input] = values }

    override fun set(input: String, values: IntArray) =
        check(file.input(input), values.size) { inputs[input] = FloatArray(values.size) { values[it].toFloat() } }

    private fun check(port: Port, size: Int, then: () -> Unit) {
        check(port.size == size) { "${port.name}: $size values instead of ${port.size}" }
        then()
    }

    override fun run() = Unit

    override fun get(output: String): FloatArray {
        val size = file.outputs.first { it.name == output }.size
        return when (file) {
            folder.textEncoder -> FloatArray(size) { inputs.getValue("input_ids")[it % folder.tokens] / 100 }
            folder.denoiser -> {
                val mean = inputs.getValue("context").average().toFloat()
                val x = inputs.getValue("x")
                FloatArray(size) { tanh(x[it]) * inputs.getValue("timestep")[0] / 1000 + mean }
            }
            else -> pixels(inputs.getValue("latents"), size)
        }
    }

    /** Nearest latent of the first channels. */
    private fun pixels(latents: FloatArray, size: Int): FloatArray {
        val (_, _, _, height, width) = folder.latents
        val clip = folder.clip
        val (frames, area) = folder.decoding.frames to clip.height * clip.width
        return FloatArray(size) {
            val (channel, frame, place) = Triple(it / (frames * area), it / area % frames, it % area)
            val y = place / clip.width * height / clip.height
            val x = place % clip.width * width / clip.width
            latents[((channel * frames + frame) * height + y) * width + x]
        }
    }

    override fun close() = Unit
}
