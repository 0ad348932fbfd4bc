// Declarations without contents, for a compiler without the Android SDK; see apps/check.sh. Gradle does not see them.

@file:Suppress("UNUSED_PARAMETER", "unused")

package android.provider

import android.net.Uri

class MediaStore {
    class Images {
        object Media {
            const val DISPLAY_NAME = ""
            const val MIME_TYPE = ""
            val EXTERNAL_CONTENT_URI: Uri get() = TODO()
        }
    }
}
