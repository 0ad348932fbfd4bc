import XCTest

@testable import NasClip

/// Noise, tokens and sampling against the values of apps/golden, which Python computed.
final class GoldenTests: XCTestCase {
    struct Golden: Decodable {
        struct Noise: Decodable {
            let numbers: [UInt64]
            let draws: [[Float]]
        }

        struct TokenCase: Decodable {
            struct Prompt: Decodable {
                let text: String
                let ids, mask: [Int32]
            }

            let tokenizer: String
            let length: Int
            let prompts: [Prompt]
        }

        struct SamplingCase: Decodable {
            let name: String
            let seed: UInt64
            let sampling: Sampling
            let latents: [Float]
        }

        let noise: [Noise]
        let tokens: [TokenCase]
        let sampling: [SamplingCase]
    }

    static let folder = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("golden")

    func golden() throws -> Golden {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Golden.self, from: Data(contentsOf: Self.folder.appendingPathComponent("golden.json")))
    }

    func assertClose(_ values: [Float], _ expected: [Float], _ name: String) {
        XCTAssertEqual(values.count, expected.count, name)
        for (value, target) in zip(values, expected) {
            XCTAssertEqual(value, target, accuracy: 2e-5 * max(1, abs(target)), name)
        }
    }

    func testNoise() throws {
        for noise in try golden().noise {
            var random = TorchRandom(numbers: noise.numbers)
            for draw in noise.draws { assertClose(random.normal(draw.count), draw, "\(noise.numbers)") }
        }
    }

    func testTokens() throws {
        for entry in try golden().tokens {
            let tokenizer = try Tokenizer(Self.folder.appendingPathComponent(entry.tokenizer))
            for prompt in entry.prompts {
                let tokens = tokenizer.encode(prompt.text, length: entry.length)
                XCTAssertEqual(tokens.ids, prompt.ids, prompt.text)
                XCTAssertEqual(tokens.mask, prompt.mask, prompt.text)
            }
        }
    }

    func testSampling() throws {
        for entry in try golden().sampling {
            let latents = sample(entry.sampling, count: entry.latents.count, seed: entry.seed) { x, timestep, conditional in
                x.map { tanh($0) * (0.5 + timestep / 2000) + (conditional ? 0.25 : -0.125) }
            }
            assertClose(latents, entry.latents, entry.name)
        }
    }
}
