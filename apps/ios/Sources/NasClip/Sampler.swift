/// Latents after all sampling steps of `export.json`.
///
/// - Parameter denoise: `(x, timestep, conditional)` to the denoiser's output for the prompt, or for the empty prompt.
public func sample(
    _ sampling: Sampling,
    count: Int,
    seed: UInt64,
    denoise: (_ x: [Float], _ timestep: Float, _ conditional: Bool) throws -> [Float]
) rethrows -> [Float] {
    var first = TorchRandom(seed, 0)
    var x = first.normal(count).map { sampling.initialScale * $0 }
    var later = TorchRandom(seed, 0, UInt64(sampling.steps.count))
    for step in sampling.steps {
        let input = x.map { step.inputScale * $0 }
        var prediction = try denoise(input, step.timestep, true)
        if sampling.guidance != 1 {
            let empty = try denoise(input, step.timestep, false)
            for i in 0..<count {
                prediction[i] = empty[i] + sampling.guidance * (prediction[i] - empty[i])
            }
        }
        for i in 0..<count {
            x[i] = step.keep * x[i] + step.add * prediction[i]
        }
        if sampling.sampler == "renoise" {
            let noise = later.normal(count)
            for i in 0..<count {
                x[i] += step.noise * noise[i]
            }
        }
    }
    return x
}
