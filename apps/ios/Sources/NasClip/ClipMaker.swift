import CoreML
import Foundation

/// uint8 frames, `frames x height x width x channels`; 1 channel is gray, 3 are sRGB.
public struct ClipPixels: Sendable {
    public let frames, height, width, channels: Int
    public let fps: Double
    public let pixels: [UInt8]
}

/// The times of one clip in milliseconds, as `nas calibrate --clip --timing` reads them.
public struct ClipTimes: Codable, Sendable {
    public var text_encoder_ms: Double = 0
    public var denoiser_ms: [Double] = []
    public var sampling_ms: Double = 0
    public var decoder_ms: [Double] = []
    public var decoding_ms: Double = 0
    public var total_ms: Double = 0
}

public struct Timing: Codable, Sendable {
    public var schema_version = 1
    public var runtime = "coreml"
    public let weights_sha256: String
    public let compute_units: String
    public let seed: UInt64
    public var load_ms: [String: Double] = [:]
    public var clips: [ClipTimes] = []
    public var peak_memory_mb: Double = 0
}

/// Makes a clip from a prompt. The models are loaded one after the other, so that only one is in memory.
public struct ClipMaker {
    public static let computeUnits: [String: MLComputeUnits] = [
        "all": .all, "cpu": .cpuOnly, "cpu+gpu": .cpuAndGPU, "cpu+ne": .cpuAndNeuralEngine,
    ]

    private let folder: ExportFolder
    private let units: MLComputeUnits
    private let unitsName: String

    /// - Parameter computeUnits: `all`, `cpu`, `cpu+gpu` or `cpu+ne`, as in `nas profile --compute-unit`.
    public init(_ folder: ExportFolder, computeUnits: String = "all") throws {
        guard let units = ClipMaker.computeUnits[computeUnits] else {
            throw ClipError("compute units: '\(computeUnits)' is unknown; use all, cpu, cpu+gpu or cpu+ne")
        }
        self.folder = folder
        self.units = units
        unitsName = computeUnits
    }

    /// - Parameters:
    ///   - repeats: clips that are timed; all are equal.
    ///   - progress: called with the share of the work that is done, from 0 to 1.
    /// - Throws: `ClipError` if a model cannot be run, or returns NaN or infinity.
    public func make(
        prompt: String, seed: UInt64, repeats: Int = 1, progress: (Double) -> Void = { _ in }
    ) async throws -> (ClipPixels, Timing) {
        var timing = Timing(weights_sha256: folder.weightsSha256, compute_units: unitsName, seed: seed)
        timing.clips = Array(repeating: ClipTimes(), count: repeats)
        let context = try await encode(prompt, &timing)
        progress(0.1)
        let latents = try await denoise(context, seed, &timing, progress)
        progress(0.9)
        let clip = try await decode(latents, &timing)
        for i in timing.clips.indices {
            let times = timing.clips[i]
            timing.clips[i].total_ms = times.text_encoder_ms + times.sampling_ms + times.decoding_ms
        }
        timing.peak_memory_mb = peakMemoryMB()
        progress(1)
        return (clip, timing)
    }

    private func encode(_ prompt: String, _ timing: inout Timing) async throws -> [Float] {
        var timer = Timer()
        let tokenizerFolder = folder.url.appendingPathComponent(folder.prompt.folder)
        let tokenizer = try Tokenizer(tokenizerFolder.appendingPathComponent("tokenizer.json"))
        timing.load_ms["tokenizer"] = timer.lap()
        let model = try await CoreMLModel(folder.textEncoder, in: folder.url, units: units)
        timing.load_ms["text_encoder"] = timer.lap()
        var context: [Float] = []
        for i in timing.clips.indices {
            let tokens = tokenizer.encode(prompt, length: folder.prompt.tokens)
            try model.set("input_ids", tokens.ids)
            try model.set("attention_mask", tokens.mask)
            try model.run()
            context = try model.get()
            timing.clips[i].text_encoder_ms = timer.lap()
        }
        return context
    }

    private func denoise(
        _ context: [Float], _ seed: UInt64, _ timing: inout Timing, _ progress: (Double) -> Void
    ) async throws -> [Float] {
        var timer = Timer()
        var models: [CoreMLModel] = []
        for file in folder.denoisers {
            models.append(try await CoreMLModel(file, in: folder.url, units: units))
        }
        timing.load_ms["denoiser"] = timer.lap()
        let runs = Double(folder.sampling.steps.count * (folder.sampling.guidance == 1 ? 1 : 2) * timing.clips.count)
        var latents: [Float] = []
        var done = 0.0
        for i in timing.clips.indices {
            var calls: [Double] = []
            latents = try sample(folder.sampling, count: folder.latents.shape.reduce(1, *), seed: seed) {
                x, timestep, conditional in
                var call = Timer()
                let values = ["x": x, "timestep": [timestep], "context": conditional ? context : folder.emptyContext]
                let prediction = try run(models, with: values)
                calls.append(call.lap())
                done += 1
                progress(0.1 + 0.8 * done / runs)
                return prediction
            }
            timing.clips[i].denoiser_ms = calls
            timing.clips[i].sampling_ms = timer.lap()
        }
        try requireFinite(latents, "denoiser")
        return latents
    }

    /// Runs the halves of a denoiser one after the other; each takes its inputs from what is known by name.
    private func run(_ models: [CoreMLModel], with values: [String: [Float]]) throws -> [Float] {
        var known = values
        var prediction: [Float] = []
        for model in models {
            for name in model.inputNames {
                guard let value = known[name] else { throw ClipError("denoiser: no value for '\(name)'; export again") }
                try model.set(name, value)
            }
            try model.run()
            for name in model.outputNames { known[name] = try model.get(name) }
            prediction = try model.get()
        }
        return prediction
    }

    private func decode(_ latents: [Float], _ timing: inout Timing) async throws -> ClipPixels {
        var timer = Timer()
        let model = try await CoreMLModel(folder.decoder, in: folder.url, units: units)
        timing.load_ms["decoder"] = timer.lap()
        let size = folder.clip
        let decoding = folder.decoding
        let state = decoding.state ?? []
        var pixels = [UInt8](repeating: 0, count: size.frames * size.height * size.width * size.channels)
        for i in timing.clips.indices {
            for name in state {
                try model.set(name, [Float](repeating: 0, count: folder.decoder.input(name).count))
            }
            for run in 0..<(decoding.runs ?? 1) {
                var call = Timer()
                try model.set("latents", frames(of: latents, from: run * decoding.frames, count: decoding.frames))
                try model.run()
                let video = try state.isEmpty ? model.get() : model.get("video")
                for name in state { try model.set(name, model.get(name + "_out")) }
                timing.clips[i].decoder_ms.append(call.lap())
                try requireFinite(video, "decoder")
                try copyPixels(video, run: run, to: &pixels)
            }
            timing.clips[i].decoding_ms = timer.lap()
        }
        return ClipPixels(
            frames: size.frames, height: size.height, width: size.width, channels: size.channels, fps: size.fps, pixels: pixels)
    }

    /// Latent frames of `(1, C, T, h, w)`.
    private func frames(of latents: [Float], from start: Int, count: Int) -> [Float] {
        let shape = folder.latents.shape
        let area = shape[3] * shape[4]
        return (0..<shape[1]).flatMap { channel -> ArraySlice<Float> in
            let from = (channel * shape[2] + start) * area
            return latents[from..<(from + count * area)]
        }
    }

    /// `(1, C, T, H, W)` in [minimum, maximum] to uint8 `(T, H, W, C)` at the run's place in the clip.
    private func copyPixels(_ video: [Float], run: Int, to pixels: inout [UInt8]) throws {
        let size = folder.clip
        let area = size.height * size.width
        let frames = folder.decoding.videoFrames ?? folder.decoding.frames
        guard video.count == size.channels * frames * area else {
            throw ClipError("\(folder.decoder.file): its output differs from export.json; export again")
        }
        let (low, high) = (size.minimum ?? -1, size.maximum ?? 1)
        for frame in 0..<frames {
            let target = run * frames + frame - (folder.decoding.dropFirst ?? 0)
            if target < 0 { continue }
            for channel in 0..<size.channels {
                for i in 0..<area {
                    let value = min(max(video[(channel * frames + frame) * area + i], low), high)
                    let level = ((value + 1) * 127.5).rounded(.toNearestOrEven)
                    pixels[(target * area + i) * size.channels + channel] = UInt8(level)
                }
            }
        }
    }

    private func requireFinite(_ values: [Float], _ part: String) throws {
        if !values.allSatisfy(\.isFinite) {
            throw ClipError("\(part): returns NaN or infinity; export another checkpoint, or use other compute units")
        }
    }
}

/// Milliseconds since the last call.
private struct Timer {
    private var last = DispatchTime.now().uptimeNanoseconds

    mutating func lap() -> Double {
        let now = DispatchTime.now().uptimeNanoseconds
        defer { last = now }
        return Double(now - last) / 1e6
    }
}

/// The largest memory that the system has counted for this process, in 10^6 bytes.
private func peakMemoryMB() -> Double {
    var info = task_vm_info_data_t()
    var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
    let result = withUnsafeMutablePointer(to: &info) { pointer in
        pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
            task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
        }
    }
    return result == KERN_SUCCESS ? Double(info.ledger_phys_footprint_peak) / 1e6 : 0
}
