#include "tokenizer/vocabulary_builder.h"

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <optional>

namespace scalebits {
namespace {

/// GPT-2's alphabet: printable Latin-1 bytes are themselves, the other 68 are U+0100 and up, in order.
constexpr std::size_t kAlphabetEnd = 256 + 68;

/// Bytes by code point; -1 for the code points that stand for none.
const std::array<int, kAlphabetEnd>& byte_alphabet() {
  static const auto alphabet = [] {
    std::array<int, kAlphabetEnd> bytes;
    bytes.fill(-1);
    std::size_t shifted = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      bytes[printable ? static_cast<std::size_t>(byte) : shifted++] = byte;
    }
    return bytes;
  }();
  return alphabet;
}

std::optional<std::string> bytes_of_byte_level(std::string_view text) {
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t code_point = -1;
    const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                         static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
    if (length <= 0 || static_cast<std::size_t>(code_point) >= kAlphabetEnd || byte_alphabet()[code_point] < 0)
      return std::nullopt;
    bytes += static_cast<char>(byte_alphabet()[code_point]);
    at += static_cast<std::size_t>(length);
  }
  return bytes;
}

/// "<0x0A>" → 10; -1 when it is not that.
int byte_of_name(std::string_view text) {
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const int high = digit(text[3]), low = digit(text[4]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

std::string spaces_of_sentencepiece(std::string_view text) {
  std::string plain;
  for (std::size_t at = 0; at < text.size();) {
    const bool space = text.substr(at).starts_with("▁");
    plain += space ? ' ' : text[at];
    at += space ? std::string_view("▁").size() : 1;
  }
  return plain;
}

/// Whether the text holds a number's character beside another character.
bool joins_a_digit(std::string_view text) {
  std::size_t characters = 0;
  bool digit = false;
  for (std::size_t at = 0; at < text.size(); ++characters) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0) return false;
    utf8proc_int32_t code_point = 0;
    utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at), static_cast<utf8proc_ssize_t>(length),
                     &code_point);
    const auto category = utf8proc_category(code_point);
    digit |= category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
    at += length;
  }
  return digit && characters > 1;
}

}  // namespace

std::string byte_level_text(std::string_view bytes) {
  static const auto spelling = [] {
    std::array<std::string, 256> texts;
    for (std::size_t code_point = 0; code_point < kAlphabetEnd; ++code_point) {
      if (byte_alphabet()[code_point] < 0) continue;
      std::array<utf8proc_uint8_t, 4> encoded;
      const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), encoded.data());
      texts[static_cast<std::size_t>(byte_alphabet()[code_point])].assign(reinterpret_cast<const char*>(encoded.data()),
                                                                          static_cast<std::size_t>(length));
    }
    return texts;
  }();
  std::string text;
  for (const char byte : bytes) text += spelling[static_cast<unsigned char>(byte)];
  return text;
}

VocabularyBuilder::VocabularyBuilder(TokenizerDefinition definition, Spelling spelling, std::string where)
    : definition_(std::move(definition)), spelling_(spelling), where_(std::move(where)) {}

void VocabularyBuilder::grow_to(std::int64_t id) {
  if (id < 0 || id >= kMaxVocabulary)
    fail_input("{}: a token id must be 0 to {}, found {}", where_, kMaxVocabulary - 1, id);
  // Vocabularies have few holes: rows that round a size up, and tokens taken out.
  constexpr std::size_t kMaxHoles = 65536, kMaxIdsPerToken = 16;
  const auto size = static_cast<std::size_t>(id) + 1;
  if (expected_ && size > kMaxIdsPerToken * *expected_ + kMaxHoles)
    fail_input("{}: the token id {} is too large for a vocabulary of {} tokens", where_, id, *expected_);
  if (given_.size() >= size) return;
  given_.resize(size);
  definition_.pieces.resize(size);
  definition_.kinds.resize(size, TokenKind::unreachable);
  if (definition_.model != TokenizerDefinition::Model::ranked_merges) definition_.scores.resize(size);
}

void VocabularyBuilder::add_token(std::int64_t id, const std::string& text, TokenKind kind, float score) {
  grow_to(id);
  if (given_[id]) fail_input("{}: token id {} is given twice, to '{}' too", where_, id, text);
  given_[id] = true;
  ids_.emplace(text, static_cast<std::int32_t>(id));
  std::string& piece = definition_.pieces[id];
  const bool literal = kind == TokenKind::control || kind == TokenKind::unknown;
  piece = text;
  if (spelling_ == Spelling::byte_level && !literal) {
    if (auto bytes = bytes_of_byte_level(text))
      piece = std::move(*bytes);
    else
      kind = TokenKind::unreachable;
  } else if (spelling_ == Spelling::sentencepiece && !literal) {
    const int byte = byte_of_name(text);
    if (kind == TokenKind::byte && byte < 0) fail_input("{}: token {} is a byte but is named '{}'", where_, id, text);
    if (byte >= 0 && (kind == TokenKind::byte || (kind == TokenKind::normal && definition_.byte_fallback))) {
      kind = TokenKind::byte;
      piece = static_cast<char>(byte);
    } else {
      // A literal space never reaches the word model: it is written "▁" there.
      if (kind == TokenKind::normal && text.find(' ') != std::string::npos) kind = TokenKind::unreachable;
      piece = spaces_of_sentencepiece(text);
    }
  }
  definition_.kinds[id] = kind;
  if (!definition_.scores.empty()) definition_.scores[id] = score;
}

void VocabularyBuilder::add_added_token(AddedToken token, const std::string& content) {
  grow_to(token.id);
  if (content.empty()) fail_input("{}: added token {} has no text", where_, token.id);
  if (given_[token.id]) {
    const auto found = ids_.find(content);
    if (found == ids_.end() || found->second != token.id)
      fail_input("{}: added token '{}' has id {}, which is another token's", where_, content, token.id);
  } else {
    given_[token.id] = true;
    ids_.emplace(content, token.id);
  }
  definition_.pieces[token.id] = content;
  TokenKind& kind = definition_.kinds[token.id];
  if (token.special && kind != TokenKind::unknown) kind = TokenKind::control;
  definition_.added.push_back(token);
}

void VocabularyBuilder::add_named_tokens(const Json& config) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    const auto named = json_value_or<Json>(config, key, Json(), where_);
    if (named.is_null()) continue;
    const auto content = named.is_object() ? json_value<std::string>(named, "content", where_)
                                           : json_value<std::string>(config, key, where_);
    const auto found = ids_.find(content);
    const auto is_it = [&](const AddedToken& added) { return found->second == added.id; };
    if (found == ids_.end() || std::any_of(definition_.added.begin(), definition_.added.end(), is_it)) continue;
    AddedToken token{.id = found->second};
    if (named.is_object()) token = added_token_from_json(named, found->second, where_);
    token.special = true;
    add_added_token(token, content);
  }
}

void VocabularyBuilder::add_merge(std::string_view left, std::string_view right) {
  Merge merge;
  merge.left = id_of(std::string(left), "a merge's left part");
  merge.right = id_of(std::string(right), "a merge's right part");
  merge.result = id_of(std::string(left) + std::string(right), "a merge's result");
  definition_.merges.push_back(merge);
}

void VocabularyBuilder::add_merge(std::string_view line) {
  const std::size_t space = line.find(' ', 1);
  if (space == std::string_view::npos || space + 1 >= line.size() ||
      line.find(' ', space + 1) != std::string_view::npos)
    fail_input("{}: merge {} must be two tokens with a space between, found '{}'", where_, definition_.merges.size(),
               line);
  add_merge(line.substr(0, space), line.substr(space + 1));
}

std::int32_t VocabularyBuilder::id_of(const std::string& text, const char* what) const {
  const auto found = ids_.find(text);
  if (found == ids_.end()) fail_input("{}: {} is '{}', which is not in the vocabulary", where_, what, text);
  return found->second;
}

TokenizerDefinition VocabularyBuilder::finish() { return std::move(definition_); }

void restore_digit_splitting(TokenizerDefinition& definition) {
  if (!definition.byte_level || definition.merges.size() < kMergesThatTell) return;
  for (const SplitStep& step : definition.split)
    if (step.kind == SplitStep::Kind::regex && step.pattern != kGpt2Pattern) return;
  for (const Merge& merge : definition.merges)
    if (joins_a_digit(definition.pieces[merge.result])) return;
  definition.split.insert(definition.split.begin(), SplitStep{.pattern = kDigitPattern});
  definition.remark = fmt::format(
      "digits are split one by one although the tokenizer's file does not say so: none of its {} merges joins a digit "
      "to "
      "anything",
      definition.merges.size());
}

AddedToken added_token_from_json(const Json& json, std::int64_t id, const std::string& where) {
  if (id < 0 || id >= kMaxVocabulary)
    fail_input("{}: an added token's id must be 0 to {}, found {}", where, kMaxVocabulary - 1, id);
  const auto flag = [&](const char* key) { return json_value_or<bool>(json, key, false, where); };
  return {static_cast<std::int32_t>(id), flag("special"),   flag("lstrip"), flag("rstrip"),
          flag("single_word"),           flag("normalized")};
}

void apply_tokenizer_config(TokenizerDefinition& definition, const Json& config, const std::string& where) {
  const auto token = [&](const char* key, std::int32_t& id) {
    if (!config.is_object() || !config.contains(key) || config[key].is_null()) return;
    const auto content = config[key].is_object() ? json_value<std::string>(config[key], "content", where)
                                                 : json_value<std::string>(config, key, where);
    const auto is_it = [&](std::int32_t candidate) { return definition.pieces[candidate] == content; };
    for (const AddedToken& added : definition.added)
      if (is_it(added.id)) {
        id = added.id;
        return;
      }
    for (std::int32_t candidate = 0; candidate < static_cast<std::int32_t>(definition.pieces.size()); ++candidate)
      if (is_it(candidate)) {
        id = candidate;
        return;
      }
    fail_input("{}: {} is '{}', which is not in the vocabulary", where, key, content);
  };
  token("bos_token", definition.bos);
  token("eos_token", definition.eos);
  definition.adds_bos = json_value_or<bool>(config, "add_bos_token", definition.adds_bos, where) && definition.bos >= 0;
}

}  // namespace scalebits
