// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package com.google.ai.edge.litert

class LiteRtException : Exception()

enum class Accelerator { NONE, CPU, GPU, NPU }

abstract class TensorBuffer : AutoCloseable {
    fun writeFloat(data: FloatArray) = Unit

    fun writeInt(data: IntArray) = Unit

    fun readFloat(): FloatArray = TODO()
}

abstract class CompiledModel : AutoCloseable {
    data class CpuOptions(
        val numThreads: Int? = null,
        val xnnPackFlags: Int? = null,
        val xnnPackWeightCachePath: String? = null,
    )

    class Options(vararg accelerators: Accelerator) {
        var cpuOptions: CpuOptions? = null
    }

    fun createInputBuffer(inputName: String, signature: String = ""): TensorBuffer = TODO()

    fun createOutputBuffer(outputName: String, signature: String = ""): TensorBuffer = TODO()

    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String = "") = Unit

    companion object {
        fun create(filePath: String, options: Options): CompiledModel = TODO()
    }
}
