// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.view

import android.content.Context

open class View(context: Context) {
    var isEnabled: Boolean = true
    var visibility: Int = 0
    var minimumHeight: Int = 0

    fun setOnClickListener(listener: (View) -> Unit) = Unit

    companion object {
        const val VISIBLE = 0
        const val INVISIBLE = 4
    }
}

abstract class ViewGroup(context: Context) : View(context) {
    fun addView(view: View) = Unit
}
