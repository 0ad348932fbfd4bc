package nas.clip.app

import android.app.Activity
import android.content.ContentValues
import android.graphics.Bitmap
import android.graphics.Color
import android.net.Uri
import android.os.Bundle
import android.os.Debug
import android.os.Handler
import android.os.Looper
import android.provider.MediaStore
import android.text.InputType
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.ScrollView
import android.widget.TextView
import java.io.File
import java.util.concurrent.Executors
import nas.clip.ClipMaker
import nas.clip.ClipPixels
import nas.clip.ClipTimes
import nas.clip.ExportFolder
import nas.clip.timingJson
import nas.clip.writeAnimatedPng

/** Makes a clip from a prompt with the export folder that was copied to the app's files, and shows and saves it. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()
    private val main = Handler(Looper.getMainLooper())
    private val folder: File by lazy { File(getExternalFilesDir(null), "export") }
    private lateinit var prompt: EditText
    private lateinit var seed: EditText
    private lateinit var make: Button
    private lateinit var save: Button
    private lateinit var progress: ProgressBar
    private lateinit var image: ImageView
    private lateinit var text: TextView
    private var frames: List<Bitmap> = emptyList()
    private var clip: ClipPixels? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        prompt = EditText(this).apply { setText("the digit three moves left") }
        seed = EditText(this).apply {
            setText("0")
            inputType = InputType.TYPE_CLASS_NUMBER
        }
        make = Button(this).apply {
            setText("Make the clip")
            setOnClickListener { start() }
        }
        save = Button(this).apply {
            setText("Save")
            isEnabled = false
            setOnClickListener { clip?.let { saveClip(it) } }
        }
        progress = ProgressBar(this, null, android.R.attr.progressBarStyleHorizontal).apply { visibility = View.INVISIBLE }
        image = ImageView(this).apply {
            adjustViewBounds = true
            minimumHeight = 600
        }
        text = TextView(this).apply { setText("Export folder: $folder") }
        val column = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        for (view in listOf(prompt, seed, make, progress, image, save, text)) column.addView(view)
        setContentView(ScrollView(this).apply { addView(column) })
    }

    override fun onDestroy() {
        worker.shutdown()
        main.removeCallbacksAndMessages(null)
        super.onDestroy()
    }

    private fun start() {
        val words = prompt.text.toString()
        val number = seed.text.toString().toLongOrNull() ?: 0
        make.isEnabled = false
        progress.visibility = View.VISIBLE
        worker.execute {
            val result = runCatching { makeClip(words, number) }
            main.post { finish(result) }
        }
    }

    private fun makeClip(words: String, number: Long): Pair<ClipPixels, ClipTimes> {
        val export = ExportFolder.read(folder)
        val report = { done: Double ->
            main.post { progress.progress = (100 * done).toInt() }
            Unit
        }
        val made = ClipMaker(export, { LiteRtModel(it, THREADS) }, report).make(words, number)
        val json = timingJson(made.second, export.weights, THREADS, number, peakMemoryMb())
        File(getExternalFilesDir(null), "timing.json").writeText(json)
        return made
    }

    private fun finish(result: Result<Pair<ClipPixels, ClipTimes>>) {
        make.isEnabled = true
        progress.visibility = View.INVISIBLE
        result.onSuccess { (made, times) ->
            clip = made
            save.isEnabled = true
            text.setText(describe(times))
            frames = bitmaps(made)
            main.removeCallbacksAndMessages(null)
            show(0)
        }
        result.onFailure { error ->
            text.setText(if (error is OutOfMemoryError) "Not enough memory for this model" else error.message ?: error.toString())
        }
    }

    /** Shows the frames in a loop. */
    private fun show(frame: Int) {
        image.setImageBitmap(frames[frame])
        val delay = (1000 / (clip?.size?.fps ?: 8.0)).toLong()
        main.postDelayed({ show((frame + 1) % frames.size) }, delay)
    }

    private fun bitmaps(clip: ClipPixels): List<Bitmap> {
        val size = clip.size
        val area = size.height * size.width
        return List(size.frames) { frame ->
            val colors = IntArray(area) {
                val at = (frame * area + it) * size.channels
                val level = { channel: Int -> clip.pixels[at + channel].toInt() and 0xFF }
                if (size.channels == 3) Color.rgb(level(0), level(1), level(2)) else Color.rgb(level(0), level(0), level(0))
            }
            val scale = maxOf(1, 512 / size.height)
            val bitmap = Bitmap.createBitmap(colors, size.width, size.height, Bitmap.Config.ARGB_8888)
            Bitmap.createScaledBitmap(bitmap, scale * size.width, scale * size.height, false)
        }
    }

    /** Writes an animated PNG to the pictures. */
    private fun saveClip(clip: ClipPixels) {
        val values = ContentValues().apply {
            put(MediaStore.Images.Media.DISPLAY_NAME, "clip-${System.currentTimeMillis()}.png")
            put(MediaStore.Images.Media.MIME_TYPE, "image/png")
        }
        val uri: Uri? = contentResolver.insert(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, values)
        val stream = uri?.let { contentResolver.openOutputStream(it) }
        if (stream == null) {
            text.setText("The clip cannot be saved: no space, or no permission")
            return
        }
        stream.use { writeAnimatedPng(clip, it) }
        text.setText("Saved to the pictures as an animated PNG")
    }

    private fun describe(times: ClipTimes): String = listOf(
        "Text encoder %.1f ms".format(times.textEncoder),
        "Denoiser %.1f ms in %d runs".format(times.denoiser.sum(), times.denoiser.size),
        "Decoder %.1f ms in %d runs".format(times.decoder.sum(), times.decoder.size),
        "Clip %.1f ms".format(times.total),
        "Peak memory %.1f MB".format(peakMemoryMb()),
    ).joinToString("\n")

    /** The largest resident memory of the process, in 10^6 bytes. */
    private fun peakMemoryMb(): Double {
        val line = File("/proc/self/status").readLines().find { it.startsWith("VmHWM:") }
        val kilobytes = line?.filter { it.isDigit() }?.toDoubleOrNull() ?: Debug.getPss().toDouble()
        return kilobytes * 1024 / 1e6
    }

    private companion object {
        const val THREADS = 4
    }
}
