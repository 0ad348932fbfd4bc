// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.text

object InputType {
    const val TYPE_CLASS_NUMBER = 0
}
