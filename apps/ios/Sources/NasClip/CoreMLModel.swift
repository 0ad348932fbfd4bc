import Accelerate
import CoreML

/// One package of the export folder, compiled and loaded.
final class CoreMLModel {
    private let file: ModelFile
    private let model: MLModel
    private var inputs: [String: MLMultiArray] = [:]
    private var outputs: MLFeatureProvider?

    /// - Throws: `ClipError` if the package cannot be compiled or loaded on this device.
    init(_ file: ModelFile, in folder: URL, units: MLComputeUnits) async throws {
        self.file = file
        let package = folder.appendingPathComponent(file.file)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        do {
            let compiled = try await MLModel.compileModel(at: package)
            defer { try? FileManager.default.removeItem(at: compiled) }
            model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
        } catch {
            throw ClipError("\(package.path): cannot be loaded (\(error.localizedDescription)); export again")
        }
    }

    var inputNames: [String] { file.inputs.map(\.name) }
    var outputNames: [String] { file.outputs.map(\.name) }

    func set(_ name: String, _ values: [Float]) throws {
        let port = try file.input(name)
        guard port.count == values.count else {
            throw ClipError("\(file.file): input '\(name)' takes \(port.count) values, not \(values.count); export again")
        }
        let half = port.dtype == "float16"
        let array = try MLMultiArray(shape: port.shape.map { NSNumber(value: $0) }, dataType: half ? .float16 : .float32)
        values.withUnsafeBufferPointer { source in
            if half {
                var from = vImage_Buffer(
                    data: UnsafeMutableRawPointer(mutating: source.baseAddress!), height: 1,
                    width: vImagePixelCount(values.count), rowBytes: values.count * 4)
                var to = vImage_Buffer(
                    data: array.dataPointer, height: 1, width: vImagePixelCount(values.count), rowBytes: values.count * 2)
                vImageConvert_PlanarFtoPlanar16F(&from, &to, 0)
            } else {
                array.dataPointer.copyMemory(from: source.baseAddress!, byteCount: values.count * 4)
            }
        }
        inputs[name] = array
    }

    func set(_ name: String, _ values: [Int32]) throws {
        let port = try file.input(name)
        let array = try MLMultiArray(shape: port.shape.map { NSNumber(value: $0) }, dataType: .int32)
        for (i, value) in values.enumerated() { array[i] = NSNumber(value: value) }
        inputs[name] = array
    }

    func run() throws {
        do {
            outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
        } catch {
            throw ClipError("\(file.file): cannot be run (\(error.localizedDescription))")
        }
    }

    /// The values of an output, float32, in the order of its shape.
    func get(_ name: String) throws -> [Float] {
        guard let array = outputs?.featureValue(for: name)?.multiArrayValue else {
            throw ClipError("\(file.file): has no output '\(name)'; export again")
        }
        return MLShapedArray<Float>(converting: array).scalars  // Core ML's arrays may have padded rows
    }

    func get() throws -> [Float] {
        guard let name = outputNames.first else { throw ClipError("\(file.file): has no outputs; export again") }
        return try get(name)
    }
}
