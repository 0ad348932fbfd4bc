#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// A prompt as the text encoder's inputs, padded to its length.
struct Tokens {
  std::vector<int32_t> ids, mask;
};

/// The tokenizers of BERT (WordPiece) and CLIP (BPE), read from Hugging Face's `tokenizer.json`.
class Tokenizer {
 public:
  /// Throws `Error` if the file cannot be read, or describes another tokenizer.
  explicit Tokenizer(const std::string& path);
  ~Tokenizer();

  /// The ids of a UTF-8 text with the special tokens, truncated to `length` and padded to it.
  Tokens encode(const std::string& text, size_t length) const;
  /// Ids from elsewhere, with the padding of this tokenizer.
  Tokens pad(std::vector<int32_t> ids, size_t length) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};
