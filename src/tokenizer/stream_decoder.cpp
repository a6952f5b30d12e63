#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

#include <span>

namespace scalebits {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// Whether text[at…] to its end could still grow into a character.
bool is_unfinished(std::string_view text, std::size_t at) {
  // Every valid beginning is completed by one of these tails; together they meet the limits of all lead bytes.
  for (const std::string_view tail : {"\x80", "\x80\x80", "\xa0\x80", "\x90\x80\x80", "\x80\x80\x80"})
    if (utf8_length(std::string(text.substr(at)) + std::string(tail), 0) > text.size() - at) return true;
  return false;
}

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options)
    : tokenizer_(tokenizer), options_(options) {}

std::string StreamDecoder::push(std::int32_t id) {
  pending_ += tokenizer_.decode(std::span(&id, 1), options_);
  const bool gives_text = options_.special_text || !tokenizer_.is_special(id);
  if (id >= 0 && id < tokenizer_.vocab_size() && gives_text) options_.text_start = false;
  return take_whole_characters(false);
}

std::string StreamDecoder::finish() { return take_whole_characters(true); }

std::string StreamDecoder::take_whole_characters(bool at_end) {
  std::string whole;
  std::size_t at = 0;
  while (at < pending_.size()) {
    const std::size_t length = utf8_length(pending_, at);
    if (length == 0 && is_unfinished(pending_, at)) {
      if (!at_end) break;
      whole += kReplacement;  // one for the whole beginning of a character
      at = pending_.size();
      break;
    }
    if (length == 0)
      whole += kReplacement;
    else
      whole += pending_.substr(at, length);
    at += length == 0 ? 1 : length;
  }
  pending_.erase(0, at);
  return whole;
}

}  // namespace scalebits
