import Foundation

/// The normal numbers that torch's CPU generator draws, up to the rounding of logarithm and cosine.
public struct TorchRandom {
    private static let size = 624
    private static let block = 16  // torch transforms uniform numbers to normal ones in blocks of 16

    private var state: [UInt32]
    private var next = TorchRandom.size
    private var second: Double?  // of a pair of normal numbers

    /// Seeded by whole numbers, as `nas.diffusion.seeding.generator`.
    public init(_ numbers: UInt64...) {
        self.init(numbers: numbers)
    }

    public init(numbers: [UInt64]) {
        var mixed: UInt64 = 0
        for number in numbers {  // splitmix64
            mixed &+= number &+ 0x9E37_79B9_7F4A_7C15
            mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
            mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
            mixed ^= mixed >> 31
        }
        state = [UInt32(truncatingIfNeeded: mixed)]  // torch uses the lower 32 bits
        for i in 1..<TorchRandom.size {
            let before = state[i - 1]
            state.append(1_812_433_253 &* (before ^ (before >> 30)) &+ UInt32(i))
        }
    }

    /// `torch.randn(count, generator=...)`.
    public mutating func normal(_ count: Int) -> [Float] {
        let block = TorchRandom.block
        var values = [Float](repeating: 0, count: count)
        if count < block {
            for i in 0..<count { values[i] = Float(normalDouble()) }
            return values
        }
        for i in 0..<count { values[i] = uniform() }
        for start in stride(from: 0, through: count - block, by: block) {
            TorchRandom.boxMuller(&values, from: start)
        }
        if count % block != 0 {  // the last 16 values are drawn anew
            for i in (count - block)..<count { values[i] = uniform() }
            TorchRandom.boxMuller(&values, from: count - block)
        }
        return values
    }

    private static func boxMuller(_ values: inout [Float], from start: Int) {
        for i in start..<(start + block / 2) {
            let radius = sqrt(-2 * log(Double(1 - values[i])))
            let angle = 2 * Double.pi * Double(values[i + block / 2])
            values[i] = Float(radius * cos(angle))
            values[i + block / 2] = Float(radius * sin(angle))
        }
    }

    private mutating func normalDouble() -> Double {
        if let value = second {
            second = nil
            return value
        }
        let first = uniformDouble()
        let radius = sqrt(-2 * log1p(-uniformDouble()))
        let angle = 2 * Double.pi * first
        second = radius * sin(angle)
        return radius * cos(angle)
    }

    private mutating func uniform() -> Float {
        Float(bits() & 0xFF_FFFF) / 16_777_216
    }

    private mutating func uniformDouble() -> Double {
        let high = UInt64(bits()) << 32
        let low = UInt64(bits())
        return Double((high | low) & ((1 << 53) - 1)) / 9_007_199_254_740_992
    }

    /// The next 32 bits of MT19937.
    private mutating func bits() -> UInt32 {
        if next == TorchRandom.size { refill() }
        var y = state[next]
        next += 1
        y ^= y >> 11
        y ^= (y << 7) & 0x9D2C_5680
        y ^= (y << 15) & 0xEFC6_0000
        return y ^ (y >> 18)
    }

    private mutating func refill() {
        let size = TorchRandom.size
        for i in 0..<size {
            let y = (state[i] & 0x8000_0000) | (state[(i + 1) % size] & 0x7FFF_FFFF)
            let odd: UInt32 = y & 1 == 1 ? 0x9908_B0DF : 0
            state[i] = state[(i + 397) % size] ^ (y >> 1) ^ odd
        }
        next = 0
    }
}
