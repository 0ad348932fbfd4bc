// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.graphics

class Bitmap private constructor() {
    enum class Config { ARGB_8888 }

    companion object {
        fun createBitmap(colors: IntArray, width: Int, height: Int, config: Config): Bitmap = TODO()

        fun createScaledBitmap(source: Bitmap, width: Int, height: Int, filter: Boolean): Bitmap = TODO()
    }
}

object Color {
    fun rgb(red: Int, green: Int, blue: Int): Int = TODO()
}
