package nas.clip

import java.io.File
import java.io.IOException
import java.text.Normalizer
import org.json.JSONException
import org.json.JSONObject

/** A prompt as the text encoder's inputs, padded to its length. */
class Tokens(val ids: IntArray, val mask: IntArray)

/**
 * The tokenizers of BERT (WordPiece) and CLIP (BPE), read from Hugging Face's `tokenizer.json`.
 *
 * Text is handled as code points, not as UTF-16.
 */
class Tokenizer private constructor(
    private val words: (IntArray) -> List<IntArray>,
    private val pieces: (IntArray) -> List<Int>,
    private val added: Map<List<Int>, Int>,
    private val first: Int,
    private val last: Int,
    private val padding: Int,
) {
    /** The ids of a text with the special tokens, truncated to `length` and padded to it. */
    fun encode(text: String, length: Int): Tokens {
        val content = content(text.codePoints().toArray()).take(length - 2)
        val ids = listOf(first) + content + last
        val mask = IntArray(length) { if (it < ids.size) 1 else 0 }
        return Tokens(IntArray(length) { if (it < ids.size) ids[it] else padding }, mask)
    }

    /** Added tokens are matched in the text before anything else, the longest first. */
    private fun content(text: IntArray): List<Int> {
        val ids = mutableListOf<Int>()
        var start = 0
        var at = 0
        while (at < text.size) {
            val match = added.keys.filter { it.matches(text, at) }.maxByOrNull { it.size }
            if (match == null) {
                at++
                continue
            }
            words(text.copyOfRange(start, at)).forEach { ids += pieces(it) }
            ids += added.getValue(match)
            at += match.size
            start = at
        }
        words(text.copyOfRange(start, text.size)).forEach { ids += pieces(it) }
        return ids
    }

    companion object {
        /** Throws [ClipError] if the file cannot be read, or describes another tokenizer. */
        fun read(file: File): Tokenizer {
            try {
                val root = JSONObject(file.readText())
                val model = root.getJSONObject("model")
                val vocabulary = model.getJSONObject("vocab").let { json -> json.keys().asSequence().associateWith(json::getInt) }
                val added = root.getJSONArray("added_tokens").objects().associate {
                    it.getString("content").codePoints().toArray().toList() to it.getInt("id")
                }
                val padding = root.getJSONObject("padding").getInt("pad_id")
                return when (val kind = model.optString("type")) {
                    "WordPiece" -> wordPiece(root, vocabulary, added, padding)
                    "BPE" -> bpe(root, vocabulary, added, padding)
                    else -> throw ClipError("$file: a tokenizer of type '$kind' is not supported by this app")
                }
            } catch (error: IOException) {
                throw ClipError("$file: cannot be read; export again")
            } catch (error: JSONException) {
                throw ClipError("$file: ${error.message}; export again")
            }
        }

        private fun wordPiece(root: JSONObject, vocabulary: Map<String, Int>, added: Map<List<Int>, Int>, padding: Int): Tokenizer {
            val normalizer = root.getJSONObject("normalizer")
            if (normalizer.optString("type") != "BertNormalizer") throw ClipError("tokenizer.json: not a tokenizer of BERT")
            val lowercase = normalizer.getBoolean("lowercase")
            val bert = Bert(
                clean = normalizer.getBoolean("clean_text"),
                chinese = normalizer.getBoolean("handle_chinese_chars"),
                accents = normalizer.optBoolean("strip_accents", lowercase),
                lowercase = lowercase,
            )
            val model = root.getJSONObject("model")
            val unknown = vocabulary.getValue(model.getString("unk_token"))
            val pieces = WordPiece(
                vocabulary,
                model.getString("continuing_subword_prefix"),
                unknown,
                model.getInt("max_input_chars_per_word"),
            )
            val post = root.getJSONObject("post_processor")
            val single = post.getJSONArray("single").objects()
            val special = { part: JSONObject ->
                val name = part.getJSONObject("SpecialToken").getString("id")
                post.getJSONObject("special_tokens").getJSONObject(name).getJSONArray("ids").getInt(0)
            }
            return Tokenizer(bert::words, pieces::ids, added, special(single.first()), special(single.last()), padding)
        }

        private fun bpe(root: JSONObject, vocabulary: Map<String, Int>, added: Map<List<Int>, Int>, padding: Int): Tokenizer {
            val split = root.getJSONObject("pre_tokenizer").getJSONArray("pretokenizers").getJSONObject(0)
            val pattern = split.getJSONObject("pattern").optString("Regex").removePrefix("<\\|startoftext\\|>|<\\|endoftext\\|>|")
            if (pattern != Clip.PATTERN) throw ClipError("tokenizer.json: a BPE tokenizer other than CLIP's is not supported")
            val model = root.getJSONObject("model")
            val merges = model.getJSONArray("merges")
            val ranks = (0 until merges.length()).associateBy {
                val pair = merges.optJSONArray(it)
                if (pair != null) pair.getString(0) to pair.getString(1)
                else merges.getString(it).let { line -> line.substringBefore(' ') to line.substringAfter(' ') }
            }
            val pieces = Bpe(vocabulary, ranks, model.getString("end_of_word_suffix"), vocabulary.getValue(model.getString("unk_token")))
            val post = root.getJSONObject("post_processor")
            val special = { name: String -> post.getJSONArray(name).getInt(1) }
            return Tokenizer(Clip::words, pieces::ids, added, special("cls"), special("sep"), padding)
        }
    }
}

private fun List<Int>.matches(text: IntArray, at: Int): Boolean =
    isNotEmpty() && text.size - at >= size && indices.all { text[at + it] == this[it] }

private fun string(text: IntArray, start: Int = 0, end: Int = text.size) = String(text, start, end - start)

/** Unicode's White_Space. */
private fun isSpace(c: Int): Boolean = c in 9..13 || c == 32 || c == 0x85 || Character.isSpaceChar(c)

private fun category(c: Int): Byte = Character.getType(c).toByte()

/** BERT's normalization, and its words and punctuation. */
private class Bert(val clean: Boolean, val chinese: Boolean, val accents: Boolean, val lowercase: Boolean) {
    fun words(text: IntArray): List<IntArray> {
        val words = mutableListOf(mutableListOf<Int>())
        for (c in normalized(text)) {
            when {
                isSpace(c) -> words += mutableListOf<Int>()
                isPunctuation(c) -> words += listOf(mutableListOf(c), mutableListOf())
                else -> words.last() += c
            }
        }
        return words.filter { it.isNotEmpty() }.map { it.toIntArray() }
    }

    private fun normalized(text: IntArray): IntArray {
        var current = text.toList()
        if (clean) {
            current = current.filterNot { it == 0 || it == 0xFFFD || isControl(it) }.map { if (isSpace(it)) 32 else it }
        }
        if (chinese) current = current.flatMap { if (isChinese(it)) listOf(32, it, 32) else listOf(it) }
        if (accents) {
            val decomposed = Normalizer.normalize(string(current.toIntArray()), Normalizer.Form.NFD)
            current = decomposed.codePoints().toArray().filterNot { category(it) == Character.NON_SPACING_MARK }
        }
        return if (lowercase) lower(current.toIntArray()) else current.toIntArray()
    }

    private fun isControl(c: Int): Boolean =
        c != 9 && c != 10 && c != 13 && category(c) in setOf(Character.CONTROL, Character.FORMAT, Character.PRIVATE_USE)

    private fun isPunctuation(c: Int): Boolean = c in 33..47 || c in 58..64 || c in 91..96 || c in 123..126 || category(c) in PUNCTUATION

    private fun isChinese(c: Int): Boolean = CHINESE.any { c in it }

    private companion object {
        val PUNCTUATION = setOf(
            Character.CONNECTOR_PUNCTUATION,
            Character.DASH_PUNCTUATION,
            Character.START_PUNCTUATION,
            Character.END_PUNCTUATION,
            Character.INITIAL_QUOTE_PUNCTUATION,
            Character.FINAL_QUOTE_PUNCTUATION,
            Character.OTHER_PUNCTUATION,
        )
        val CHINESE = listOf(
            0x4E00..0x9FFF,
            0x3400..0x4DBF,
            0x20000..0x2A6DF,
            0x2A700..0x2B73F,
            0x2B740..0x2B81F,
            0x2B920..0x2CEAF,
            0xF900..0xFAFF,
            0x2F800..0x2FA1F,
        )
    }
}

/** Lower case of each character by itself; only the Turkish capital I has two. */
private fun lower(text: IntArray): IntArray =
    text.flatMap { if (it == 0x130) listOf(0x69, 0x307) else listOf(Character.toLowerCase(it)) }.toIntArray()

/** The longest pieces of a word that are in the vocabulary, from its start. */
private class WordPiece(val vocabulary: Map<String, Int>, val prefix: String, val unknown: Int, val longest: Int) {
    fun ids(word: IntArray): List<Int> {
        if (word.size > longest) return listOf(unknown)
        val found = mutableListOf<Int>()
        var start = 0
        while (start < word.size) {
            val before = if (start > 0) prefix else ""
            val end = (word.size downTo start + 1).find { before + string(word, start, it) in vocabulary }
                ?: return listOf(unknown)
            found += vocabulary.getValue(before + string(word, start, end))
            start = end
        }
        return found
    }
}

/** CLIP's normalization and words. */
private object Clip {
    const val PATTERN = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"
    private val CONTRACTIONS = listOf("'s", "'t", "'re", "'ve", "'m", "'ll", "'d").map { it.codePoints().toArray().toList() }
    private val NUMBERS = setOf(Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER)

    /** The matches of [PATTERN]; its alternatives are tried in order. */
    fun words(text: IntArray): List<IntArray> {
        val normal = normalized(text)
        val words = mutableListOf<IntArray>()
        var at = 0
        while (at < normal.size) {
            var end = at + (CONTRACTIONS.find { it.matches(normal, at) }?.size ?: 0)
            if (end == at) {
                when {
                    isLetter(normal[at]) -> while (end < normal.size && isLetter(normal[end])) end++
                    isNumber(normal[at]) -> end++
                    else -> while (end < normal.size && isOther(normal[end])) end++
                }
            }
            if (end > at) words += normal.copyOfRange(at, end)
            at = maxOf(end, at + 1)
        }
        return words
    }

    private fun normalized(text: IntArray): IntArray {
        val spaced = mutableListOf<Int>()
        for (c in Normalizer.normalize(string(text), Normalizer.Form.NFC).codePoints()) {
            if (!isSpace(c)) spaced += c else if (spaced.lastOrNull() != 32) spaced += 32
        }
        return lower(spaced.toIntArray())
    }

    private fun isLetter(c: Int) = Character.isLetter(c)

    private fun isNumber(c: Int) = category(c) in NUMBERS

    private fun isOther(c: Int) = !isSpace(c) && !isLetter(c) && !isNumber(c)
}

/** Byte pair encoding over the printable characters that GPT-2 gives to bytes. */
private class Bpe(
    val vocabulary: Map<String, Int>,
    val ranks: Map<Pair<String, String>, Int>,
    val suffix: String,
    val unknown: Int,
) {
    private val letters: List<String> = buildList {
        var other = 256
        for (byte in 0..255) {
            val printable = byte in 33..126 || byte in 161..172 || byte >= 174
            add(String(Character.toChars(if (printable) byte else other++)))
        }
    }

    fun ids(word: IntArray): List<Int> {
        val bytes = string(word).toByteArray()
        if (bytes.isEmpty()) return emptyList()
        val pieces = bytes.map { letters[it.toInt() and 0xFF] }.toMutableList()
        pieces[pieces.lastIndex] += suffix
        pieces.replaceAll { if (it in vocabulary) it else "" } // unknown: takes part in no merge
        while (true) {
            val at = pieces.indices.toList().dropLast(1)
                .filter { (pieces[it] to pieces[it + 1]) in ranks }
                .minByOrNull { ranks.getValue(pieces[it] to pieces[it + 1]) } ?: break
            pieces[at] += pieces.removeAt(at + 1)
        }
        return pieces.map { vocabulary[it] ?: unknown }
    }
}
