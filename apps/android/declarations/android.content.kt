// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.content

import android.net.Uri
import java.io.File
import java.io.OutputStream

abstract class Context {
    val contentResolver: ContentResolver get() = TODO()

    fun getExternalFilesDir(type: String?): File? = TODO()
}

abstract class ContentResolver {
    fun insert(uri: Uri, values: ContentValues?): Uri? = TODO()

    fun openOutputStream(uri: Uri): OutputStream? = TODO()
}

class ContentValues {
    fun put(key: String, value: String?) = Unit
}
