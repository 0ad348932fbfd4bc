// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.net

abstract class Uri
