import Foundation

/// A prompt as the text encoder's inputs, padded to its length.
public struct Tokens {
    public let ids, mask: [Int32]
}

typealias Scalars = [Unicode.Scalar]

/// The tokenizers of BERT (WordPiece) and CLIP (BPE), read from Hugging Face's `tokenizer.json`.
public struct Tokenizer {
    private let words: (Scalars) -> [Scalars]
    private let pieces: (Scalars) -> [Int32]
    private let added: [(text: Scalars, id: Int32)]
    private let first, last, padding: Int32

    /// - Throws: `ClipError` if the file cannot be read, or describes another tokenizer.
    public init(_ file: URL) throws {
        let json = JSON(try? JSONSerialization.jsonObject(with: Data(contentsOf: file)), at: file.path)
        let vocabulary = try json["model"]["vocab"].dictionary().mapValues { Int32(truncating: $0 as? NSNumber ?? 0) }
        added = try json["added_tokens"].array().map {
            (Scalars(try $0["content"].string().unicodeScalars), try $0["id"].integer())
        }
        padding = try json["padding"]["pad_id"].integer()
        let model = json["model"]
        let unknown = vocabulary[try model["unk_token"].string()] ?? 0
        let post = json["post_processor"]
        switch try model["type"].string() {
        case "WordPiece":
            let normalizer = json["normalizer"]
            guard try normalizer["type"].string() == "BertNormalizer" else {
                throw ClipError("\(file.path): a WordPiece tokenizer other than BERT's is not supported by this app")
            }
            let lowercase = try normalizer["lowercase"].boolean()
            let bert = BertWords(
                clean: try normalizer["clean_text"].boolean(),
                chinese: try normalizer["handle_chinese_chars"].boolean(),
                accents: (try? normalizer["strip_accents"].boolean()) ?? lowercase,
                lowercase: lowercase
            )
            let wordPiece = WordPiece(
                vocabulary: vocabulary,
                prefix: try model["continuing_subword_prefix"].string(),
                unknown: unknown,
                longest: Int(try model["max_input_chars_per_word"].integer())
            )
            words = bert.words
            pieces = wordPiece.ids
            let single = try post["single"].array()
            func special(_ part: JSON?) throws -> Int32 {
                guard let part else { throw ClipError("\(file.path): post_processor.single: is empty; export again") }
                let name = try part["SpecialToken"]["id"].string()
                return try post["special_tokens"][name]["ids"].array()[0].integer()
            }
            first = try special(single.first)
            last = try special(single.last)
        case "BPE":
            let split = try json["pre_tokenizer"]["pretokenizers"].array()[0]
            guard try split["pattern"]["Regex"].string().hasSuffix(ClipWords.pattern) else {
                throw ClipError("\(file.path): a BPE tokenizer other than CLIP's is not supported by this app")
            }
            let merges = try model["merges"].array().map { merge in
                if let line = try? merge.string() { return line.split(separator: " ").map(String.init) }
                return try merge.array().map { try $0.string() }
            }
            let bpe = BytePairs(
                vocabulary: vocabulary,
                ranks: Dictionary(merges.enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first }),
                suffix: try model["end_of_word_suffix"].string(),
                unknown: unknown
            )
            words = ClipWords.words
            pieces = bpe.ids
            first = try post["cls"].array()[1].integer()
            last = try post["sep"].array()[1].integer()
        case let type:
            throw ClipError("\(file.path): a tokenizer of type '\(type)' is not supported by this app")
        }
    }

    /// The ids of a text with the special tokens, truncated to `length` and padded to it.
    public func encode(_ text: String, length: Int) -> Tokens {
        var ids = [first] + content(Scalars(text.unicodeScalars)).prefix(length - 2) + [last]
        let missing = length - ids.count
        let mask = [Int32](repeating: 1, count: ids.count) + [Int32](repeating: 0, count: missing)
        ids += [Int32](repeating: padding, count: missing)
        return Tokens(ids: ids, mask: mask)
    }

    /// Added tokens are matched in the text before anything else, the longest first.
    private func content(_ text: Scalars) -> [Int32] {
        var ids: [Int32] = []
        var start = 0
        var at = 0
        while at < text.count {
            let matches = added.filter { !$0.text.isEmpty && text[at...].starts(with: $0.text) }
            guard let match = matches.max(by: { $0.text.count < $1.text.count }) else {
                at += 1
                continue
            }
            ids += words(Scalars(text[start..<at])).flatMap(pieces)
            ids.append(match.id)
            at += match.text.count
            start = at
        }
        return ids + words(Scalars(text[start...])).flatMap(pieces)
    }
}

/// A value of a JSON file; a missing or wrong one is an error that names its place.
private struct JSON {
    let value: Any?
    let place: String

    init(_ value: Any?, at place: String) {
        self.value = value
        self.place = place
    }

    subscript(key: String) -> JSON {
        JSON((value as? [String: Any])?[key], at: "\(place): \(key)")
    }

    func dictionary() throws -> [String: Any] { try get() }
    func string() throws -> String { try get() }
    func boolean() throws -> Bool { try get() }
    func integer() throws -> Int32 { Int32(truncating: try get() as NSNumber) }

    func array() throws -> [JSON] {
        let values: [Any] = try get()
        return values.enumerated().map { JSON($1, at: "\(place)[\($0)]") }
    }

    private func get<T>() throws -> T {
        guard let found = value as? T else {
            throw ClipError("\(place): is missing or not as expected; export again")
        }
        return found
    }
}

private func string<S: Sequence>(_ scalars: S) -> String where S.Element == Unicode.Scalar {
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars)
    return String(view)
}

/// Lower case of each character by itself.
private func lower(_ text: Scalars) -> Scalars {
    text.flatMap { $0.properties.lowercaseMapping.unicodeScalars }
}

/// BERT's normalization, and its words and punctuation.
struct BertWords {
    let clean, chinese, accents, lowercase: Bool

    func words(_ text: Scalars) -> [Scalars] {
        var words: [Scalars] = [[]]
        for scalar in normalized(text) {
            if scalar.properties.isWhitespace {
                words.append([])
            } else if isPunctuation(scalar) {
                words += [[scalar], []]
            } else {
                words[words.count - 1].append(scalar)
            }
        }
        return words.filter { !$0.isEmpty }
    }

    private func normalized(_ text: Scalars) -> Scalars {
        var current = text
        if clean {
            current = current.filter { $0.value != 0 && $0.value != 0xFFFD && !isControl($0) }
                .map { $0.properties.isWhitespace ? " " : $0 }
        }
        if chinese {
            current = current.flatMap { isChinese($0) ? [" ", $0, " "] : [$0] }
        }
        if accents {
            current = string(current).decomposedStringWithCanonicalMapping.unicodeScalars
                .filter { $0.properties.generalCategory != .nonspacingMark }
        }
        return lowercase ? lower(current) : current
    }

    private func isControl(_ scalar: Unicode.Scalar) -> Bool {
        if ["\t", "\n", "\r"].contains(scalar) { return false }
        return [.control, .format, .privateUse].contains(scalar.properties.generalCategory)
    }

    private func isPunctuation(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 33...47, 58...64, 91...96, 123...126: return true
        default: break
        }
        switch scalar.properties.generalCategory {
        case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
            .finalPunctuation, .otherPunctuation:
            return true
        default: return false
        }
    }

    private func isChinese(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F, 0x2B920...0x2CEAF,
            0xF900...0xFAFF, 0x2F800...0x2FA1F:
            return true
        default: return false
        }
    }
}

/// The longest pieces of a word that are in the vocabulary, from its start.
struct WordPiece {
    let vocabulary: [String: Int32]
    let prefix: String
    let unknown: Int32
    let longest: Int

    func ids(_ word: Scalars) -> [Int32] {
        if word.count > longest { return [unknown] }
        var found: [Int32] = []
        var start = 0
        while start < word.count {
            var end = word.count
            var id: Int32?
            while end > start {
                id = vocabulary[(start > 0 ? prefix : "") + string(word[start..<end])]
                if id != nil { break }
                end -= 1
            }
            guard let id else { return [unknown] }
            found.append(id)
            start = end
        }
        return found
    }
}

/// CLIP's normalization and words.
enum ClipWords {
    static let pattern = #"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"#
    private static let contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map { Scalars($0.unicodeScalars) }

    /// The matches of `pattern`; its alternatives are tried in order.
    static func words(_ text: Scalars) -> [Scalars] {
        let normal = normalized(text)
        var words: [Scalars] = []
        var at = 0
        while at < normal.count {
            var end = at + (contractions.first { normal[at...].starts(with: $0) }?.count ?? 0)
            if end == at {
                if isLetter(normal[at]) {
                    while end < normal.count && isLetter(normal[end]) { end += 1 }
                } else if isNumber(normal[at]) {
                    end += 1
                } else {
                    while end < normal.count && isOther(normal[end]) { end += 1 }
                }
            }
            if end > at { words.append(Scalars(normal[at..<end])) }
            at = max(end, at + 1)
        }
        return words
    }

    private static func normalized(_ text: Scalars) -> Scalars {
        var spaced: Scalars = []
        for scalar in string(text).precomposedStringWithCanonicalMapping.unicodeScalars {
            if !scalar.properties.isWhitespace {
                spaced.append(scalar)
            } else if spaced.last != " " {
                spaced.append(" ")
            }
        }
        return lower(spaced)
    }

    private static func isLetter(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return true
        default: return false
        }
    }

    private static func isNumber(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .decimalNumber, .letterNumber, .otherNumber: return true
        default: return false
        }
    }

    private static func isOther(_ scalar: Unicode.Scalar) -> Bool {
        !scalar.properties.isWhitespace && !isLetter(scalar) && !isNumber(scalar)
    }
}

/// Byte pair encoding over the printable characters that GPT-2 gives to bytes.
struct BytePairs {
    let vocabulary: [String: Int32]
    let ranks: [[String]: Int]
    let suffix: String
    let unknown: Int32

    private static let letters: [String] = {
        var other: UInt32 = 256
        return (0..<256).map { (byte: UInt32) -> String in
            if (33...126).contains(byte) || (161...172).contains(byte) || byte >= 174 {
                return string([Unicode.Scalar(byte)!])
            }
            other += 1
            return string([Unicode.Scalar(other - 1)!])
        }
    }()

    func ids(_ word: Scalars) -> [Int32] {
        var pieces = string(word).utf8.map { BytePairs.letters[Int($0)] }
        if pieces.isEmpty { return [] }
        pieces[pieces.count - 1] += suffix
        pieces = pieces.map { vocabulary[$0] == nil ? "" : $0 }  // unknown: takes part in no merge
        while pieces.count > 1 {
            let pairs = (0..<(pieces.count - 1)).compactMap { at in ranks[[pieces[at], pieces[at + 1]]].map { (at, $0) } }
            guard let best = pairs.min(by: { $0.1 < $1.1 }) else { break }
            pieces[best.0] += pieces.remove(at: best.0 + 1)
        }
        return pieces.map { vocabulary[$0] ?? unknown }
    }
}
