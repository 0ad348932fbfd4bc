package nas.clip

/**
 * Latents after all sampling steps of `export.json`.
 *
 * @param denoise `(x, timestep, conditional)` -> the denoiser's output for the prompt, or for the empty prompt.
 */
fun sample(
    sampling: Sampling,
    size: Int,
    seed: Long,
    denoise: (x: FloatArray, timestep: Float, conditional: Boolean) -> FloatArray,
): FloatArray {
    val x = Random(seed, 0).normal(size)
    for (i in x.indices) x[i] *= sampling.initialScale
    val later = Random(seed, 0, sampling.steps.size.toLong())
    for (step in sampling.steps) {
        val input = FloatArray(size) { step.inputScale * x[it] }
        var prediction = denoise(input, step.timestep, true)
        if (sampling.guidance != 1f) {
            val conditional = prediction
            val empty = denoise(input, step.timestep, false)
            prediction = FloatArray(size) { empty[it] + sampling.guidance * (conditional[it] - empty[it]) }
        }
        for (i in x.indices) x[i] = step.keep * x[i] + step.add * prediction[i]
        if (sampling.sampler != "renoise") continue
        val noise = later.normal(size)
        for (i in x.indices) x[i] += step.noise * noise[i]
    }
    return x
}
