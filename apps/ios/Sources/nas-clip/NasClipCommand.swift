import ArgumentParser
import Foundation
import NasClip

@main
struct NasClipCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nas-clip",
        abstract: "Makes a clip from a prompt with a folder that 'nas export --format coreml' wrote."
    )

    @Option(help: "The export folder.")
    var export: String

    @Option(help: "What the clip shows.")
    var prompt: String

    @Option(help: "The video, .mp4.")
    var out: String

    @Option(help: "Of the noise.")
    var seed: UInt64 = 0

    @Option(help: "all, cpu, cpu+gpu or cpu+ne.")
    var computeUnit = "all"

    @Option(name: .customLong("repeat"), help: "Time this many clips.")
    var repeats = 1

    @Option(help: "Write the time of every part as JSON.")
    var timing: String?

    func validate() throws {
        if repeats < 1 { throw ValidationError("--repeat: needs a number of 1 or more") }
    }

    func run() async throws {
        let folder = try ExportFolder(URL(fileURLWithPath: export))
        let maker = try ClipMaker(folder, computeUnits: computeUnit)
        let (clip, measured) = try await maker.make(prompt: prompt, seed: seed, repeats: repeats)
        try await writeVideo(clip, to: URL(fileURLWithPath: out))
        if let timing {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
            try encoder.encode(measured).write(to: URL(fileURLWithPath: timing))
        }
        let times = measured.clips[measured.clips.count - 1]
        report("text encoder", times.text_encoder_ms, "ms")
        report("denoiser", times.sampling_ms, "ms", "(\(times.denoiser_ms.count) runs)")
        report("decoder", times.decoding_ms, "ms", "(\(times.decoder_ms.count) runs)")
        report("clip", times.total_ms, "ms", "(\(clip.frames) frames)")
        report("peak memory", measured.peak_memory_mb, "MB")
        print(out)
    }

    private func report(_ part: String, _ value: Double, _ unit: String, _ note: String = "") {
        print(part.padding(toLength: 13, withPad: " ", startingAt: 0) + String(format: "%10.1f ", value) + "\(unit)  \(note)")
    }
}
