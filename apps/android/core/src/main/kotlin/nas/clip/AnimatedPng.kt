package nas.clip

import java.io.ByteArrayOutputStream
import java.io.DataOutputStream
import java.io.OutputStream
import java.util.zip.CRC32
import java.util.zip.DeflaterOutputStream
import kotlin.math.roundToInt

/** Write a clip as an animated PNG, which browsers play without loss; a clip of one frame as a plain PNG. */
fun writeAnimatedPng(clip: ClipPixels, out: OutputStream) {
    val size = clip.size
    out.write(byteArrayOf(0x89.toByte(), 'P'.code.toByte(), 'N'.code.toByte(), 'G'.code.toByte(), 13, 10, 26, 10))
    chunk(out, "IHDR") {
        writeInt(size.width)
        writeInt(size.height)
        write(byteArrayOf(8, if (size.channels == 3) 2 else 0, 0, 0, 0))
    }
    val animated = size.frames > 1
    if (animated) {
        chunk(out, "acTL") {
            writeInt(size.frames)
            writeInt(0) // repeat forever
        }
    }
    var sequence = 0
    for (frame in 0 until size.frames) {
        if (animated) {
            chunk(out, "fcTL") {
                writeInt(sequence++)
                writeInt(size.width)
                writeInt(size.height)
                writeInt(0)
                writeInt(0)
                writeShort(1000)
                writeShort((1000 * size.fps).roundToInt())
                writeShort(0)
            }
        }
        chunk(out, if (frame == 0) "IDAT" else "fdAT") {
            if (frame > 0) writeInt(sequence++)
            write(compressed(clip, frame))
        }
    }
    chunk(out, "IEND") {}
}

private fun compressed(clip: ClipPixels, frame: Int): ByteArray {
    val row = clip.size.width * clip.size.channels
    val bytes = ByteArrayOutputStream()
    DeflaterOutputStream(bytes).use { deflater ->
        for (y in 0 until clip.size.height) {
            deflater.write(0) // no filter
            deflater.write(clip.pixels, (frame * clip.size.height + y) * row, row)
        }
    }
    return bytes.toByteArray()
}

private fun chunk(out: OutputStream, name: String, write: DataOutputStream.() -> Unit) {
    val content = ByteArrayOutputStream()
    DataOutputStream(content).apply {
        writeBytes(name)
        write()
    }
    val bytes = content.toByteArray()
    val checksum = CRC32().apply { update(bytes) }
    DataOutputStream(out).apply {
        writeInt(bytes.size - name.length)
        write(bytes)
        writeInt(checksum.value.toInt())
    }
}
