// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.os

class Bundle

object Debug {
    fun getPss(): Long = TODO()
}

class Looper private constructor() {
    companion object {
        fun getMainLooper(): Looper = TODO()
    }
}

class Handler(looper: Looper) {
    fun post(run: () -> Unit): Boolean = TODO()

    fun postDelayed(run: () -> Unit, delayMillis: Long): Boolean = TODO()

    fun removeCallbacksAndMessages(token: Any?) = Unit
}
