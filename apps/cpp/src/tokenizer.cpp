#include "tokenizer.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utf8proc.h>

#include "error.h"

using nlohmann::json;
using Text = std::vector<int32_t>;  // code points
using Vocabulary = std::unordered_map<std::string, int32_t>;

namespace {

constexpr const char* kClipPatterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+",
    "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"};

Text decode(const std::string& bytes) {
  Text text;
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(bytes.data());
  for (size_t i = 0; i < bytes.size();) {
    int32_t point = 0;
    const auto used = utf8proc_iterate(data + i, static_cast<utf8proc_ssize_t>(bytes.size() - i), &point);
    if (used < 1) throw Error("--prompt: byte " + std::to_string(i + 1) + " is not valid UTF-8; type it again");
    text.push_back(point);
    i += static_cast<size_t>(used);
  }
  return text;
}

std::string encode(const int32_t* points, size_t count) {
  std::string bytes;
  utf8proc_uint8_t buffer[4];
  for (size_t i = 0; i < count; i++)
    bytes.append(reinterpret_cast<char*>(buffer), static_cast<size_t>(utf8proc_encode_char(points[i], buffer)));
  return bytes;
}

std::string encode(const Text& text) { return encode(text.data(), text.size()); }

Text normal_form(const Text& text, bool composed) {
  const std::string bytes = encode(text);
  auto options = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
  utf8proc_uint8_t* result = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(bytes.data()),
                                 static_cast<utf8proc_ssize_t>(bytes.size()), &result,
                                 static_cast<utf8proc_option_t>(options));
  if (size < 0) throw Error("--prompt: cannot be normalized");
  const std::string normal(reinterpret_cast<char*>(result), static_cast<size_t>(size));
  std::free(result);
  return decode(normal);
}

bool is_space(int32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_letter(int32_t c) {
  const auto kind = utf8proc_category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_number(int32_t c) {
  const auto kind = utf8proc_category(c);
  return kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO;
}

bool is_control(int32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  const auto kind = utf8proc_category(c);
  return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF || kind == UTF8PROC_CATEGORY_CO;
}

bool is_punctuation(int32_t c) {
  const bool ascii = (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  const auto kind = utf8proc_category(c);
  return ascii || (kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO);
}

bool is_chinese(int32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

Text lower(const Text& text) {
  Text result;
  for (int32_t c : text) {
    result.push_back(c == 0x130 ? 'i' : utf8proc_tolower(c));
    if (c == 0x130) result.push_back(0x307);  // the only character whose lower case has two
  }
  return result;
}

struct Bert {
  bool clean, chinese, accents, lowercase;

  Text normalize(Text text) const {
    if (clean) {
      Text kept;
      for (int32_t c : text)
        if (c != 0 && c != 0xFFFD && !is_control(c)) kept.push_back(is_space(c) ? ' ' : c);
      text = kept;
    }
    if (chinese) {
      Text spaced;
      for (int32_t c : text) {
        if (is_chinese(c)) spaced.insert(spaced.end(), {' ', c, ' '});
        else spaced.push_back(c);
      }
      text = spaced;
    }
    if (accents) {
      Text kept;
      for (int32_t c : normal_form(text, false))
        if (utf8proc_category(c) != UTF8PROC_CATEGORY_MN) kept.push_back(c);
      text = kept;
    }
    return lowercase ? lower(text) : text;
  }

  std::vector<Text> split(const Text& text) const {
    std::vector<Text> words(1);
    for (int32_t c : text) {
      if (is_space(c)) words.emplace_back();
      else if (is_punctuation(c)) words.insert(words.end(), {Text{c}, Text{}});
      else words.back().push_back(c);
    }
    return words;
  }
};

struct WordPiece {
  Vocabulary vocabulary;
  std::string prefix;
  int32_t unknown;
  size_t longest;  // in characters

  void append(const Text& word, std::vector<int32_t>& ids) const {
    if (word.size() > longest) return ids.push_back(unknown);
    std::vector<int32_t> found;
    for (size_t start = 0, end; start < word.size(); start = end) {
      for (end = word.size(); end > start; end--) {
        const auto piece = vocabulary.find((start ? prefix : "") + encode(&word[start], end - start));
        if (piece == vocabulary.end()) continue;
        found.push_back(piece->second);
        break;
      }
      if (end == start) return ids.push_back(unknown);
    }
    ids.insert(ids.end(), found.begin(), found.end());
  }
};

struct ClipText {
  Text normalize(const Text& text) const {
    Text spaced;
    for (int32_t c : normal_form(text, true)) {
      if (!is_space(c)) spaced.push_back(c);
      else if (spaced.empty() || spaced.back() != ' ') spaced.push_back(' ');
    }
    return lower(spaced);
  }

  /// The matches of the pattern that `Tokenizer` accepts; its alternatives are tried in order.
  std::vector<Text> split(const Text& text) const {
    std::vector<Text> words;
    for (size_t i = 0; i < text.size();) {
      size_t end = i + contraction(text, i);
      if (end == i && is_letter(text[i]))
        while (end < text.size() && is_letter(text[end])) end++;
      else if (end == i && is_number(text[i])) end++;
      else if (end == i)
        while (end < text.size() && !is_space(text[end]) && !is_letter(text[end]) && !is_number(text[end])) end++;
      if (end > i) words.emplace_back(text.begin() + static_cast<long>(i), text.begin() + static_cast<long>(end));
      i = std::max(end, i + 1);
    }
    return words;
  }

  static size_t contraction(const Text& text, size_t at) {
    for (const char* ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
      const std::string wanted = ending;
      if (text.size() - at >= wanted.size() && std::equal(wanted.begin(), wanted.end(), text.begin() + static_cast<long>(at)))
        return wanted.size();
    }
    return 0;
  }
};

struct Bpe {
  Vocabulary vocabulary;
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  std::string suffix;
  int32_t unknown;
  std::array<std::string, 256> letters = byte_letters();

  /// GPT-2's printable character for every byte.
  static std::array<std::string, 256> byte_letters() {
    std::array<std::string, 256> letters;
    int32_t other = 256;
    for (int32_t byte = 0; byte < 256; byte++) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      const int32_t point = printable ? byte : other++;
      letters[static_cast<size_t>(byte)] = encode(&point, 1);
    }
    return letters;
  }

  void append(const Text& word, std::vector<int32_t>& ids) const {
    std::vector<std::string> pieces;
    for (char byte : encode(word)) pieces.push_back(letters[static_cast<uint8_t>(byte)]);
    if (pieces.empty()) return;
    pieces.back() += suffix;
    for (std::string& piece : pieces)
      if (!vocabulary.count(piece)) piece.clear();  // unknown: takes part in no merge
    while (true) {
      size_t best = std::numeric_limits<size_t>::max(), at = 0;
      for (size_t i = 0; i + 1 < pieces.size(); i++) {
        const auto found = ranks.find({pieces[i], pieces[i + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, at = i;
      }
      if (best == std::numeric_limits<size_t>::max()) break;
      pieces[at] += pieces[at + 1];
      pieces.erase(pieces.begin() + static_cast<long>(at) + 1);
    }
    for (const std::string& piece : pieces) ids.push_back(piece.empty() ? unknown : vocabulary.at(piece));
  }
};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(path + ": " + what + " is not supported by this program; tokenize elsewhere and pass --ids");
}

}  // namespace

struct Tokenizer::Parts {
  std::string path;
  bool word_piece = false;
  Bert bert{};
  WordPiece pieces{};
  ClipText clip{};
  Bpe bpe{};
  std::vector<std::pair<Text, int32_t>> added;  // matched in the text before anything else
  int32_t first = 0, last = 0, padding = 0;

  void read(const json& root);
  void read_word_piece(const json& root);
  void read_bpe(const json& root);
  void append(const Text& text, std::vector<int32_t>& ids) const;
  std::vector<int32_t> content(const Text& text) const;
};

void Tokenizer::Parts::read(const json& root) {
  const json& model = root.at("model");
  const std::string kind = model.value("type", "");
  if (kind == "WordPiece") read_word_piece(root);
  else if (kind == "BPE") read_bpe(root);
  else refuse(path, "a tokenizer of type '" + kind + "'");
  for (const json& token : root.at("added_tokens")) {
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"})
      if (token.value(flag, false)) refuse(path, "an added token with " + std::string(flag));
    added.emplace_back(decode(token.at("content")), token.at("id"));
  }
  padding = root.at("padding").at("pad_id");
  if (root.at("padding").value("direction", "Right") != "Right") refuse(path, "padding at the start");
}

void Tokenizer::Parts::read_word_piece(const json& root) {
  const json &normalizer = root.at("normalizer"), &model = root.at("model"), &post = root.at("post_processor");
  if (normalizer.value("type", "") != "BertNormalizer") refuse(path, "a normalizer other than BertNormalizer");
  if (root.at("pre_tokenizer").value("type", "") != "BertPreTokenizer") refuse(path, "this pre_tokenizer");
  word_piece = true;
  const bool lowercase = normalizer.at("lowercase");
  const json strip = normalizer.value("strip_accents", json());
  bert = {normalizer.at("clean_text"), normalizer.at("handle_chinese_chars"),
          strip.is_null() ? lowercase : strip.get<bool>(), lowercase};
  pieces = {model.at("vocab").get<Vocabulary>(), model.at("continuing_subword_prefix"), 0,
            model.at("max_input_chars_per_word")};
  pieces.unknown = pieces.vocabulary.at(model.at("unk_token"));
  if (post.value("type", "") == "BertProcessing") {
    first = post.at("cls").at(1), last = post.at("sep").at(1);
    return;
  }
  const json& parts = post.at("single");
  if (post.value("type", "") != "TemplateProcessing" || parts.size() != 3 || !parts[1].contains("Sequence"))
    refuse(path, "this post_processor");
  const auto special = [&](const json& part) {
    return post.at("special_tokens").at(part.at("SpecialToken").at("id").get<std::string>()).at("ids").at(0);
  };
  first = special(parts[0]), last = special(parts[2]);
}

void Tokenizer::Parts::read_bpe(const json& root) {
  const json &model = root.at("model"), &splits = root.at("pre_tokenizer").at("pretokenizers");
  const std::string pattern = splits.at(0).at("pattern").value("Regex", "");
  if (pattern != kClipPatterns[0] && pattern != kClipPatterns[1]) refuse(path, "a BPE tokenizer other than CLIP's");
  const std::vector<std::string> expected{"NFC", "Replace", "Lowercase"};
  std::vector<std::string> steps;
  for (const json& step : root.at("normalizer").at("normalizers")) steps.push_back(step.at("type"));
  if (steps != expected) refuse(path, "a BPE tokenizer other than CLIP's");
  bpe.vocabulary = model.at("vocab").get<Vocabulary>();
  bpe.suffix = model.at("end_of_word_suffix");
  bpe.unknown = bpe.vocabulary.at(model.at("unk_token"));
  size_t rank = 0;
  for (const json& merge : model.at("merges")) {
    const std::string line = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = line.find(' ');
    const auto pair = merge.is_string() ? std::make_pair(line.substr(0, space), line.substr(space + 1))
                                        : std::make_pair(merge.at(0).get<std::string>(), merge.at(1).get<std::string>());
    bpe.ranks.emplace(pair, rank++);
  }
  first = root.at("post_processor").at("cls").at(1), last = root.at("post_processor").at("sep").at(1);
}

void Tokenizer::Parts::append(const Text& text, std::vector<int32_t>& ids) const {
  if (word_piece)
    for (const Text& word : bert.split(bert.normalize(text))) word.empty() ? void() : pieces.append(word, ids);
  else
    for (const Text& word : clip.split(clip.normalize(text))) bpe.append(word, ids);
}

std::vector<int32_t> Tokenizer::Parts::content(const Text& text) const {
  std::vector<int32_t> ids;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const std::pair<Text, int32_t>* match = nullptr;
    for (const auto& token : added) {
      const Text& wanted = token.first;
      const bool longer = match == nullptr || wanted.size() > match->first.size();
      if (!wanted.empty() && longer && text.size() - i >= wanted.size() &&
          std::equal(wanted.begin(), wanted.end(), text.begin() + static_cast<long>(i)))
        match = &token;
    }
    if (match == nullptr) {
      i++;
      continue;
    }
    append(Text(text.begin() + static_cast<long>(start), text.begin() + static_cast<long>(i)), ids);
    ids.push_back(match->second);
    start = i += match->first.size();
  }
  append(Text(text.begin() + static_cast<long>(start), text.end()), ids);
  return ids;
}

Tokenizer::Tokenizer(const std::string& path) : parts_(std::make_unique<Parts>()) {
  std::ifstream file(path);
  if (!file) throw Error(path + ": cannot be read; export the folder again, or tokenize elsewhere and pass --ids");
  parts_->path = path;
  try {
    parts_->read(json::parse(file));
  } catch (const json::exception& error) {
    throw Error(path + ": " + error.what() + "; export the folder again");
  } catch (const std::out_of_range&) {
    throw Error(path + ": its unknown token is not in its vocabulary; export the folder again");
  }
}

Tokenizer::~Tokenizer() = default;

Tokens Tokenizer::encode(const std::string& text, size_t length) const {
  std::vector<int32_t> ids{parts_->first};
  const std::vector<int32_t> content = parts_->content(decode(text));
  const size_t kept = std::min(content.size(), length - std::min<size_t>(length, 2));
  ids.insert(ids.end(), content.begin(), content.begin() + static_cast<long>(kept));
  ids.push_back(parts_->last);
  return pad(ids, length);
}

Tokens Tokenizer::pad(std::vector<int32_t> ids, size_t length) const {
  ids.resize(std::min(ids.size(), length));
  Tokens tokens{ids, std::vector<int32_t>(ids.size(), 1)};
  tokens.ids.resize(length, parts_->padding);
  tokens.mask.resize(length, 0);
  return tokens;
}
