// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.app

import android.content.Context
import android.os.Bundle
import android.view.View

abstract class Activity : Context() {
    protected open fun onCreate(state: Bundle?) = Unit

    protected open fun onDestroy() = Unit

    fun setContentView(view: View) = Unit
}
