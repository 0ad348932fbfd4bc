// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.widget

import android.content.Context
import android.graphics.Bitmap
import android.view.View
import android.view.ViewGroup

open class TextView(context: Context) : View(context) {
    val text: CharSequence? = null
    var inputType: Int = 0

    fun setText(text: CharSequence?) = Unit
}

class Button(context: Context) : TextView(context)

class EditText(context: Context) : TextView(context)

class ImageView(context: Context) : View(context) {
    var adjustViewBounds: Boolean = false

    fun setImageBitmap(bitmap: Bitmap?) = Unit
}

class LinearLayout(context: Context) : ViewGroup(context) {
    var orientation: Int = 0

    companion object {
        const val VERTICAL = 1
    }
}

class ScrollView(context: Context) : ViewGroup(context)

class ProgressBar(context: Context, attributes: Any?, style: Int) : View(context) {
    var progress: Int = 0
}
