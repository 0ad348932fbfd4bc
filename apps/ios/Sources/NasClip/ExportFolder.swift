import Foundation

/// An error that the user can fix; its message names the file and the field.
public struct ClipError: LocalizedError {
    let message: String
    public var errorDescription: String? { message }

    init(_ message: String) {
        self.message = message
    }
}

/// An input or output of a model.
public struct Port: Decodable {
    public let name: String
    public let shape: [Int]
    public let dtype: String

    public var count: Int { shape.reduce(1, *) }
}

public struct ModelFile: Decodable {
    public let file: String
    public let inputs: [Port]
    public let outputs: [Port]

    func input(_ name: String) throws -> Port {
        guard let port = inputs.first(where: { $0.name == name }) else {
            throw ClipError("export.json: \(file) has no input '\(name)'; export again")
        }
        return port
    }
}

/// `x = keep * x + add * prediction + noise * normal noise`.
public struct Step: Decodable {
    public let timestep, inputScale, keep, add, noise: Float
}

public struct Sampling: Decodable {
    public let sampler: String
    public let guidance, initialScale: Float
    public let steps: [Step]
}

public struct Prompt: Decodable {
    public let folder: String
    public let tokens: Int
    public let emptyContext: String
}

public struct Latents: Decodable {
    /// `(1, C, T, h, w)`.
    public let shape: [Int]
}

public struct Decoding: Decodable {
    public let frames: Int
    public let runs: Int?
    public let state: [String]?
    public let videoFrames: Int?
    public let dropFirst: Int?
}

public struct ClipSize: Decodable {
    public let frames, height, width, channels: Int
    public let fps: Double
    public let minimum, maximum: Float?
}

/// The entry `coreml` of `export.json`, see nas/exported/app.py.
public struct ExportFolder {
    struct App: Decodable {
        let models: [String: ModelFile]
        let prompt: Prompt
        let sampling: Sampling
        let latents: Latents
        let decoding: Decoding
        let clip: ClipSize
        let denoiser: [String]?
    }

    struct Checkpoint: Decodable {
        let weightsSha256: String?
    }

    struct Entry: Decodable {
        let app: App?
        let checkpoint: Checkpoint
    }

    struct Root: Decodable {
        let schemaVersion: Int
        let coreml: Entry?
    }

    static let schemaVersion = 1

    public let url: URL
    public let textEncoder, decoder: ModelFile
    /// The denoiser; two halves that run one after the other if it was exported with `--chunk`.
    public let denoisers: [ModelFile]
    public let prompt: Prompt
    public let sampling: Sampling
    public let latents: Latents
    public let decoding: Decoding
    public let clip: ClipSize
    public let weightsSha256: String
    /// The text encoder's output for the empty prompt.
    public let emptyContext: [Float]

    /// - Throws: `ClipError` if the folder is not an export for Core ML.
    public init(_ url: URL) throws {
        let file = url.appendingPathComponent("export.json")
        guard let data = try? Data(contentsOf: file) else {
            throw ClipError("\(file.path): cannot be read; it needs what 'nas export --format coreml' wrote")
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let root: Root
        do {
            root = try decoder.decode(Root.self, from: data)
        } catch {
            throw ClipError("\(file.path): \(error); export again")
        }
        guard root.schemaVersion == ExportFolder.schemaVersion else {
            throw ClipError("\(file.path): schema_version: this app reads version 1; use the app of the same release")
        }
        guard let entry = root.coreml, let app = entry.app else {
            throw ClipError("\(file.path): has no entry 'coreml'; run 'nas export --format coreml'")
        }
        self.url = url
        weightsSha256 = entry.checkpoint.weightsSha256 ?? ""
        textEncoder = try ExportFolder.model("text_encoder", of: app)
        denoisers = try (app.denoiser ?? ["denoiser"]).map { try ExportFolder.model($0, of: app) }
        self.decoder = try ExportFolder.model("decoder", of: app)
        prompt = app.prompt
        sampling = app.sampling
        latents = app.latents
        decoding = app.decoding
        clip = app.clip
        emptyContext = try ExportFolder.floats(url.appendingPathComponent(app.prompt.emptyContext))
        try check(file)
    }

    private func check(_ file: URL) throws {
        let runs = decoding.runs ?? 1
        let frames = runs * (decoding.videoFrames ?? decoding.frames) - (decoding.dropFirst ?? 0)
        let faults = [
            (sampling.steps.isEmpty, "sampling.steps: is empty"),
            (latents.shape.count != 5, "latents.shape: needs 5 numbers"),
            (runs * decoding.frames != latents.shape[2], "decoding: runs x frames differ from the latents' frames"),
            (clip.frames != frames, "clip.frames: differs from what decoding gives"),
            (denoisers.isEmpty, "denoiser: is empty"),
        ]
        if let fault = faults.first(where: { $0.0 }) {
            throw ClipError("\(file.path): \(fault.1); export again")
        }
    }

    private static func model(_ name: String, of app: App) throws -> ModelFile {
        guard let model = app.models[name] else {
            throw ClipError("export.json: models: '\(name)' is missing; export again")
        }
        return model
    }

    /// Little-endian float32.
    private static func floats(_ file: URL) throws -> [Float] {
        guard let data = try? Data(contentsOf: file) else {
            throw ClipError("\(file.path): cannot be read; export again")
        }
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
