#include "tokenizer/normalizer.h"

#include "core/error.h"
#include "tokenizer/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace scalebits {
namespace {

using Kind = NormalizeStep::Kind;

utf8proc_option_t unicode_options(Kind kind) {
  switch (kind) {
    case Kind::nfc: return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    case Kind::nfd: return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    case Kind::nfkc: return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    default: return static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  }
}

std::string unicode_normal_form(std::string_view text, Kind kind) {
  std::string result;
  for_each_utf8_run(text, [&](std::string_view run, bool valid) {
    const bool ascii = std::all_of(run.begin(), run.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
    if (!valid || ascii) {
      result += run;
      return;
    }
    utf8proc_uint8_t* mapped = nullptr;
    const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                     static_cast<utf8proc_ssize_t>(run.size()), &mapped, unicode_options(kind));
    if (length < 0) throw InternalError(std::string("utf8proc: ") + utf8proc_errmsg(length));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
    result.append(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(length));
  });
  return result;
}

/// No real step comes near: a character becomes at most a few words.
constexpr std::size_t kMaxGrowth = 64, kMaxAddition = 1024;

void want_length(std::size_t length, std::size_t limit) {
  if (length > limit) fail_input("tokenizer: its normalizer makes more than {} bytes of a text", limit);
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to, std::size_t limit) {
  std::string result;
  std::size_t begin = 0;
  for (std::size_t found; (found = text.find(from, begin)) != std::string_view::npos; begin = found + from.size()) {
    result += text.substr(begin, found - begin);
    result += to;
    want_length(result.size(), limit);
  }
  result += text.substr(begin);
  return result;
}

/// SentencePiece's removal of extra white space: none at the ends, one between words. A literal "▁" counts as white
/// space at the end only.
std::string collapse_spaces(std::string_view text) {
  std::string result;
  for (const char c : text)
    if (c != ' ' || (!result.empty() && result.back() != ' ')) result += c;
  constexpr std::string_view kSpaceSymbol = "▁";
  for (;;) {
    if (result.ends_with(' '))
      result.pop_back();
    else if (result.ends_with(kSpaceSymbol))
      result.resize(result.size() - kSpaceSymbol.size());
    else
      return result;
  }
}

/// `precompiled_charsmap`: u32 size of a double-array trie in bytes, the trie's u32 units (darts-clone), then
/// zero-terminated replacements that the trie's values point to.
class CharacterMap {
 public:
  static CharacterMap parse(std::string_view blob, const std::string& where) {
    std::uint32_t trie_bytes = 0;
    if (blob.size() >= 4) std::memcpy(&trie_bytes, blob.data(), 4);
    if (blob.size() < 8 || trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4)
      fail_input("{}: the SentencePiece character map is damaged: trie of {} bytes in a map of {}", where, trie_bytes,
                 blob.size());
    CharacterMap map;
    map.trie_ = blob.substr(4, trie_bytes);
    map.replacements_ = blob.substr(4 + trie_bytes);
    if (map.replacements_.empty() || map.replacements_.back() != '\0')
      fail_input("{}: the SentencePiece character map is damaged: replacements are not terminated", where);
    return map;
  }

  std::string apply(std::string_view text, std::size_t limit) const {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t length = 0;
      std::string_view replacement;
      find_longest(text.substr(at), length, replacement);
      if (length == 0) {
        length = std::max<std::size_t>(1, utf8_length(text, at));
        replacement = text.substr(at, length);
      }
      result += replacement;
      want_length(result.size(), limit);
      at += length;
    }
    return result;
  }

 private:
  std::uint32_t unit(std::size_t index) const {
    std::uint32_t value = 0;
    if (index < trie_.size() / 4) std::memcpy(&value, trie_.data() + 4 * index, 4);
    return value;
  }
  static std::size_t offset(std::uint32_t unit) { return std::size_t{unit >> 10} << ((unit & 0x200) >> 6); }

  void find_longest(std::string_view text, std::size_t& length, std::string_view& replacement) const {
    std::size_t node = offset(unit(0));
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto label = static_cast<unsigned char>(text[i]);
      node ^= label;
      const std::uint32_t found = unit(node);
      if ((found & 0x800000ffu) != label || label == 0) return;
      node ^= offset(found);
      if ((found & 0x100) == 0) continue;
      const std::size_t value = unit(node) & 0x7fffffffu;
      if (value >= replacements_.size()) return;
      length = i + 1;
      replacement = std::string_view(replacements_.data() + value);
    }
  }

  std::string_view trie_, replacements_;
};

}  // namespace

void validate_normalizer(std::span<const NormalizeStep> steps, const std::string& where) {
  for (const NormalizeStep& step : steps) {
    if (step.kind == Kind::replace && step.from.empty()) fail_input("{}: a Replace step has an empty pattern", where);
    if (step.kind == Kind::charsmap) CharacterMap::parse(step.from, where);
  }
}

std::string normalize(std::span<const NormalizeStep> steps, std::string_view text) {
  std::string result(text);
  const std::size_t limit = kMaxGrowth * text.size() + kMaxAddition;
  for (const NormalizeStep& step : steps) {
    if (result.empty()) break;
    want_length(result.size(), limit);
    switch (step.kind) {
      case Kind::nfc:
      case Kind::nfd:
      case Kind::nfkc:
      case Kind::nfkd: result = unicode_normal_form(result, step.kind); break;
      case Kind::prepend: result = step.to + result; break;
      case Kind::replace: result = replace_all(result, step.from, step.to, limit); break;
      case Kind::charsmap: result = CharacterMap::parse(step.from, "normalizer").apply(result, limit); break;
      case Kind::collapse_spaces: result = collapse_spaces(result); break;
    }
  }
  want_length(result.size(), limit);
  return result;
}

}  // namespace scalebits
