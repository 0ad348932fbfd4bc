import AVFoundation
import CoreGraphics

/// Write a clip as an H.264 video in an MP4 file.
///
/// - Throws: `ClipError` if the file cannot be written.
public func writeVideo(_ clip: ClipPixels, to url: URL) async throws {
    try? FileManager.default.removeItem(at: url)
    let writer = try AVAssetWriter(outputURL: url, fileType: .mp4)
    let input = AVAssetWriterInput(
        mediaType: .video,
        outputSettings: [
            AVVideoCodecKey: AVVideoCodecType.h264, AVVideoWidthKey: clip.width, AVVideoHeightKey: clip.height,
        ])
    let format: [String: Any] = [
        kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA,
        kCVPixelBufferWidthKey as String: clip.width,
        kCVPixelBufferHeightKey as String: clip.height,
    ]
    let adaptor = AVAssetWriterInputPixelBufferAdaptor(assetWriterInput: input, sourcePixelBufferAttributes: format)
    writer.add(input)
    guard writer.startWriting() else { throw failure(writer, url) }
    writer.startSession(atSourceTime: .zero)
    let timescale: CMTimeScale = 600
    for frame in 0..<clip.frames {
        while !input.isReadyForMoreMediaData { try await Task.sleep(nanoseconds: 1_000_000) }
        guard let pool = adaptor.pixelBufferPool, let buffer = makeBuffer(clip, frame, pool) else {
            throw failure(writer, url)
        }
        let time = CMTime(seconds: Double(frame) / clip.fps, preferredTimescale: timescale)
        guard adaptor.append(buffer, withPresentationTime: time) else { throw failure(writer, url) }
    }
    writer.endSession(atSourceTime: CMTime(seconds: Double(clip.frames) / clip.fps, preferredTimescale: timescale))
    input.markAsFinished()
    await writer.finishWriting()
    if writer.status != .completed { throw failure(writer, url) }
}

private func failure(_ writer: AVAssetWriter, _ url: URL) -> ClipError {
    ClipError("\(url.path): cannot be written (\(writer.error?.localizedDescription ?? "no more memory"))")
}

private func makeBuffer(_ clip: ClipPixels, _ frame: Int, _ pool: CVPixelBufferPool) -> CVPixelBuffer? {
    var made: CVPixelBuffer?
    CVPixelBufferPoolCreatePixelBuffer(nil, pool, &made)
    guard let buffer = made else { return nil }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let base = CVPixelBufferGetBaseAddress(buffer)?.assumingMemoryBound(to: UInt8.self) else { return nil }
    let rowBytes = CVPixelBufferGetBytesPerRow(buffer)
    for y in 0..<clip.height {
        for x in 0..<clip.width {
            let rgb = clip.rgb(frame, y, x)
            let pixel = base + y * rowBytes + 4 * x
            (pixel[0], pixel[1], pixel[2], pixel[3]) = (rgb.blue, rgb.green, rgb.red, 255)
        }
    }
    return buffer
}

extension ClipPixels {
    func rgb(_ frame: Int, _ y: Int, _ x: Int) -> (red: UInt8, green: UInt8, blue: UInt8) {
        let at = ((frame * height + y) * width + x) * channels
        return channels == 3 ? (pixels[at], pixels[at + 1], pixels[at + 2]) : (pixels[at], pixels[at], pixels[at])
    }

    /// One frame as an image to show.
    public func image(_ frame: Int) -> CGImage? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(4 * height * width)
        for y in 0..<height {
            for x in 0..<width {
                let color = rgb(frame, y, x)
                bytes += [color.red, color.green, color.blue, 255]
            }
        }
        guard let provider = CGDataProvider(data: Data(bytes) as CFData) else { return nil }
        return CGImage(
            width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 32, bytesPerRow: 4 * width,
            space: CGColorSpace(name: CGColorSpace.sRGB)!,
            bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.noneSkipLast.rawValue), provider: provider, decode: nil,
            shouldInterpolate: false, intent: .defaultIntent)
    }
}
