package nas.clip

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.ln
import kotlin.math.ln1p
import kotlin.math.sin
import kotlin.math.sqrt

/**
 * The normal numbers that torch's CPU generator draws, up to the rounding of logarithm and cosine.
 *
 * @param numbers whole numbers that seed it, as in `nas.diffusion.seeding.generator`.
 */
class Random(vararg numbers: Long) {
    private val state = IntArray(SIZE)
    private var next = SIZE
    private var second: Double? = null // of a pair of normal numbers

    init {
        var mixed = 0UL
        for (number in numbers) { // splitmix64
            mixed += number.toULong() + 0x9E3779B97F4A7C15UL
            mixed = (mixed xor (mixed shr 30)) * 0xBF58476D1CE4E5B9UL
            mixed = (mixed xor (mixed shr 27)) * 0x94D049BB133111EBUL
            mixed = mixed xor (mixed shr 31)
        }
        state[0] = mixed.toInt() // torch uses the lower 32 bits
        for (i in 1 until SIZE) state[i] = 1812433253 * (state[i - 1] xor (state[i - 1] ushr 30)) + i
    }

    /** `torch.randn(size, generator=...)`. */
    fun normal(size: Int): FloatArray {
        if (size < BLOCK) return FloatArray(size) { normalDouble().toFloat() }
        val values = FloatArray(size) { uniform() }
        for (start in 0..size - BLOCK step BLOCK) boxMuller(values, start)
        if (size % BLOCK != 0) { // the last 16 values are drawn anew
            for (i in size - BLOCK until size) values[i] = uniform()
            boxMuller(values, size - BLOCK)
        }
        return values
    }

    private fun boxMuller(values: FloatArray, start: Int) {
        for (i in start until start + BLOCK / 2) {
            val radius = sqrt(-2 * ln((1 - values[i]).toDouble()))
            val angle = 2 * PI * values[i + BLOCK / 2]
            values[i] = (radius * cos(angle)).toFloat()
            values[i + BLOCK / 2] = (radius * sin(angle)).toFloat()
        }
    }

    private fun normalDouble(): Double {
        second?.let {
            second = null
            return it
        }
        val first = uniformDouble()
        val radius = sqrt(-2 * ln1p(-uniformDouble()))
        val angle = 2 * PI * first
        second = radius * sin(angle)
        return radius * cos(angle)
    }

    private fun uniform(): Float = (bits() and 0xFFFFFF) / 16777216f

    private fun uniformDouble(): Double {
        val high = bits().toLong() shl 32
        val low = bits().toLong() and 0xFFFFFFFFL
        return ((high or low) and ((1L shl 53) - 1)) / 9007199254740992.0
    }

    /** The next 32 bits of MT19937. */
    private fun bits(): Int {
        if (next == SIZE) refill()
        var y = state[next++]
        y = y xor (y ushr 11)
        y = y xor ((y shl 7) and 0x9D2C5680.toInt())
        y = y xor ((y shl 15) and 0xEFC60000.toInt())
        return y xor (y ushr 18)
    }

    private fun refill() {
        for (i in 0 until SIZE) {
            val y = (state[i] and Int.MIN_VALUE) or (state[(i + 1) % SIZE] and Int.MAX_VALUE)
            val odd = if (y and 1 == 1) 0x9908B0DF.toInt() else 0
            state[i] = state[(i + 397) % SIZE] xor (y ushr 1) xor odd
        }
        next = 0
    }

    private companion object {
        const val SIZE = 624
        const val BLOCK = 16 // torch transforms uniform numbers to normal ones in blocks of 16
    }
}
