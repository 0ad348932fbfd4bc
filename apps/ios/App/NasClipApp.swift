import NasClip
import SwiftUI

@main
struct NasClipApp: App {
    var body: some Scene {
        WindowGroup { ClipView() }
    }
}

/// What the view shows; one clip is made at a time.
@MainActor
final class ClipModel: ObservableObject {
    @Published var folder: URL?
    @Published var progress: Double?
    @Published var clip: ClipPixels?
    @Published var video: URL?
    @Published var timing: Timing?
    @Published var message: String?

    func make(prompt: String, seed: UInt64) {
        guard let folder, progress == nil else { return }
        progress = 0
        message = nil
        Task.detached(priority: .userInitiated) {
            let granted = folder.startAccessingSecurityScopedResource()
            defer { if granted { folder.stopAccessingSecurityScopedResource() } }
            do {
                let maker = try ClipMaker(ExportFolder(folder))
                let (clip, timing) = try await maker.make(prompt: prompt, seed: seed) { done in
                    Task { @MainActor in self.progress = done }
                }
                let video = FileManager.default.temporaryDirectory.appendingPathComponent("clip.mp4")
                try await writeVideo(clip, to: video)
                await self.finish(clip, video, timing)
            } catch {
                await self.fail(error)
            }
        }
    }

    private func finish(_ clip: ClipPixels, _ video: URL, _ timing: Timing) {
        (self.clip, self.video, self.timing, progress) = (clip, video, timing, nil)
    }

    private func fail(_ error: Error) {
        (message, progress) = (error.localizedDescription, nil)
    }
}

struct ClipView: View {
    @StateObject private var model = ClipModel()
    @State private var prompt = "the digit three moves left"
    @State private var seed = 0
    @State private var choosing = false

    var body: some View {
        Form {
            Section("Model") {
                Button(model.folder?.lastPathComponent ?? "Choose an export folder") { choosing = true }
            }
            Section("Clip") {
                TextField("Prompt", text: $prompt)
                Stepper("Seed \(seed)", value: $seed, in: 0...1_000_000)
                Button("Make the clip") { model.make(prompt: prompt, seed: UInt64(seed)) }
                    .disabled(model.folder == nil || model.progress != nil)
                if let progress = model.progress { ProgressView(value: progress) }
                if let message = model.message { Text(message).foregroundStyle(.red) }
            }
            if let clip = model.clip {
                Section { PlayerView(clip: clip) }
            }
            if let video = model.video { ShareLink("Save or share", item: video) }
            if let times = model.timing?.clips.last { TimesView(times: times, memory: model.timing?.peak_memory_mb ?? 0) }
        }
        .fileImporter(isPresented: $choosing, allowedContentTypes: [.folder]) { result in
            model.folder = try? result.get()
        }
    }
}

/// Plays a clip in a loop, every pixel as a square.
struct PlayerView: View {
    let clip: ClipPixels

    var body: some View {
        TimelineView(.periodic(from: .now, by: 1 / clip.fps)) { timeline in
            let frame = Int(timeline.date.timeIntervalSinceReferenceDate * clip.fps) % clip.frames
            if let image = clip.image(frame) {
                Image(decorative: image, scale: 1).interpolation(.none).resizable().scaledToFit()
            }
        }
    }
}

struct TimesView: View {
    let times: ClipTimes
    let memory: Double

    var body: some View {
        Section("Time") {
            LabeledContent("Text encoder", value: String(format: "%.1f ms", times.text_encoder_ms))
            LabeledContent("Denoiser, \(times.denoiser_ms.count) runs", value: String(format: "%.1f ms", times.sampling_ms))
            LabeledContent("Decoder, \(times.decoder_ms.count) runs", value: String(format: "%.1f ms", times.decoding_ms))
            LabeledContent("Clip", value: String(format: "%.1f ms", times.total_ms))
            LabeledContent("Peak memory", value: String(format: "%.1f MB", memory))
        }
    }
}
