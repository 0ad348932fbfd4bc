package nas.clip.app

import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer
import nas.clip.ClipError
import nas.clip.Model
import nas.clip.ModelFile

/**
 * One model of the export folder on the CPU, by LiteRT.
 *
 * Throws [ClipError] if it cannot be loaded or run.
 */
class LiteRtModel(private val file: ModelFile, threads: Int) : Model {
    private val model: CompiledModel
    private val inputs: Map<String, TensorBuffer>

    /** By the names in the model: the converter calls outputs `output_0`, `output_1`, ... */
    private val outputs: Map<String, TensorBuffer>

    init {
        file.checkComplete()
        val options = CompiledModel.Options(Accelerator.CPU)
        options.cpuOptions = CompiledModel.CpuOptions(numThreads = threads)
        try {
            model = CompiledModel.create(file.file.path, options)
            inputs = file.inputs.associate { it.name to model.createInputBuffer(it.name) }
            outputs = file.outputs.indices.associate { "output_$it" to model.createOutputBuffer("output_$it") }
        } catch (error: LiteRtException) {
            throw ClipError("${file.file.name}: cannot be loaded (${error.message}); export again")
        }
    }

    override fun set(input: String, values: FloatArray) = inputs.getValue(input).writeFloat(values)

    override fun set(input: String, values: IntArray) = inputs.getValue(input).writeInt(values)

    override fun run() {
        try {
            model.run(inputs, outputs)
        } catch (error: LiteRtException) {
            throw ClipError("${file.file.name}: cannot be run (${error.message})")
        }
    }

    override fun get(output: String): FloatArray =
        outputs.getValue("output_${file.outputs.indexOfFirst { it.name == output }}").readFloat()

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
    }
}
