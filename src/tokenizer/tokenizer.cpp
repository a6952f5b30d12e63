#include "tokenizer/tokenizer.h"

#include "core/error.h"
#include "tokenizer/definition.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/utf8.h"
#include "tokenizer/word_model.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <functional>

namespace scalebits {
namespace {

/// One character's code point, or -1 for a byte that is no UTF-8.
std::int32_t code_point(std::string_view character) {
  utf8proc_int32_t value = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(character.data()),
                   static_cast<utf8proc_ssize_t>(character.size()), &value);
  return value;
}

bool is_white_space(std::int32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_word_character(std::int32_t c) {
  const auto category = c < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(c);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO) || category == UTF8PROC_CATEGORY_PC;
}

std::string_view character_at(std::string_view text, std::size_t at) {
  return text.substr(at, std::max<std::size_t>(1, utf8_length(text, at)));
}

std::string_view character_before(std::string_view text, std::size_t at) {
  for (std::size_t length = 1; length <= 4 && length <= at; ++length)
    if (utf8_length(text, at - length) == length) return text.substr(at - length, length);
  return text.substr(at - 1, 1);
}

void validate(const TokenizerDefinition& definition, const std::string& where) {
  const auto size = definition.pieces.size();
  if (size == 0) fail_input("{}: the vocabulary is empty", where);
  if (size > static_cast<std::size_t>(kMaxVocabulary))
    fail_input("{}: a vocabulary may have at most {} tokens, found {}", where, kMaxVocabulary, size);
  if (definition.kinds.size() != size)
    fail_input("{}: {} tokens but {} token types", where, size, definition.kinds.size());
  for (std::size_t id = 0; id < size; ++id)
    if (definition.pieces[id].size() > kMaxPieceBytes)
      fail_input("{}: token {} is longer than {} bytes", where, id, kMaxPieceBytes);
  const bool scored = definition.model != TokenizerDefinition::Model::ranked_merges;
  if (definition.scores.size() != (scored ? size : 0))
    fail_input("{}: {} tokens but {} scores", where, size, definition.scores.size());
  for (const float score : definition.scores)
    if (!std::isfinite(score)) fail_input("{}: a token's score is not a finite number", where);
  for (std::size_t id = 0; id < size; ++id)
    if (definition.kinds[id] == TokenKind::byte && definition.pieces[id].size() != 1)
      fail_input("{}: byte token {} must stand for one byte, found {}", where, id, definition.pieces[id].size());
  const auto check_id = [&](std::int32_t id, const char* what, bool optional) {
    if ((id < 0 && !(optional && id == -1)) || id >= static_cast<std::int64_t>(size))
      fail_input("{}: {} must be a token id below {}, found {}", where, what, size, id);
  };
  check_id(definition.bos, "the beginning-of-text token", true);
  check_id(definition.eos, "the end-of-text token", true);
  check_id(definition.unknown, "the unknown token", true);
  if (definition.adds_bos && definition.bos < 0)
    fail_input("{}: asks for a beginning-of-text token but names none", where);
  for (const Merge& merge : definition.merges) {
    check_id(merge.left, "a merge's left part", false);
    check_id(merge.right, "a merge's right part", false);
    check_id(merge.result, "a merge's result", false);
  }
  for (const AddedToken& token : definition.added) {
    check_id(token.id, "an added token", false);
    if (definition.pieces[token.id].empty()) fail_input("{}: added token {} has no text", where, token.id);
  }
  if (std::max(definition.normalize.size(), definition.split.size()) > kMaxTextSteps)
    fail_input("{}: a text may be rewritten and split in at most {} steps each, found {} and {}", where, kMaxTextSteps,
               definition.normalize.size(), definition.split.size());
  validate_normalizer(definition.normalize, where);
}

/// Finds added tokens in a text: the longest at each place, from left to right.
class AddedTokenFinder {
 public:
  AddedTokenFinder(const TokenizerDefinition& definition, bool normalized) {
    for (const AddedToken& token : definition.added) {
      if (token.normalized != normalized) continue;
      std::string content = definition.pieces[token.id];
      if (normalized) content = normalize(definition.normalize, content);
      if (content.empty()) continue;
      by_first_byte_[static_cast<unsigned char>(content[0])].push_back({std::move(content), token});
      empty_ = false;
    }
    for (auto& entries : by_first_byte_)
      std::stable_sort(entries.begin(), entries.end(),
                       [](const Entry& a, const Entry& b) { return a.content.size() > b.content.size(); });
  }

  /// Calls on_text(part, begins at the text's start) and on_token(id) for the parts of `text` in order.
  template <typename OnText, typename OnToken>
  void cut(std::string_view text, bool parse_special, const OnText& on_text, const OnToken& on_token) const {
    std::size_t taken = 0;
    for (std::size_t at = 0; !empty_ && at < text.size();) {
      const Entry* entry = longest_at(text, at, parse_special);
      if (entry == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + entry->content.size();
      at = end;
      if (entry->token.single_word && touches_a_word(text, begin, end)) continue;
      if (entry->token.left_strip)
        while (begin > taken && is_white_space(code_point(character_before(text, begin))))
          begin -= character_before(text, begin).size();
      if (entry->token.right_strip)
        while (end < text.size() && is_white_space(code_point(character_at(text, end))))
          end += character_at(text, end).size();
      if (begin > taken) on_text(text.substr(taken, begin - taken), taken == 0);
      on_token(entry->token.id);
      at = taken = end;
    }
    if (taken < text.size()) on_text(text.substr(taken), taken == 0);
  }

 private:
  struct Entry {
    std::string content;
    AddedToken token;
  };

  const Entry* longest_at(std::string_view text, std::size_t at, bool parse_special) const {
    for (const Entry& entry : by_first_byte_[static_cast<unsigned char>(text[at])])
      if ((parse_special || !entry.token.special) && text.substr(at).starts_with(entry.content)) return &entry;
    return nullptr;
  }

  static bool touches_a_word(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin > 0 && is_word_character(code_point(character_before(text, begin)))) ||
           (end < text.size() && is_word_character(code_point(character_at(text, end))));
  }

  std::array<std::vector<Entry>, 256> by_first_byte_;
  bool empty_ = true;
};

/// Calls body(word) for each run of non-spaces with the spaces before it.
template <typename Body>
void for_each_spaced_word(std::string_view text, const Body& body) {
  std::size_t begin = 0;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] != ' ' || text[i - 1] == ' ') continue;
    body(text.substr(begin, i - begin));
    begin = i;
  }
  if (begin < text.size()) body(text.substr(begin));
}

}  // namespace

struct Tokenizer::State {
  TokenizerDefinition definition;
  WordModel words;
  PreTokenizer pre_tokenizer;
  AddedTokenFinder raw_added, normalized_added;
  std::vector<bool> special;

  State(TokenizerDefinition given, const std::string& where)
      : definition((validate(given, where), std::move(given))), words(definition),
        pre_tokenizer(definition.split, where), raw_added(definition, false), normalized_added(definition, true),
        special(definition.pieces.size()) {
    for (std::size_t id = 0; id < special.size(); ++id)
      special[id] = definition.kinds[id] == TokenKind::control || definition.kinds[id] == TokenKind::unknown;
    for (const AddedToken& token : definition.added)
      if (token.special) special[token.id] = true;
  }
};

Tokenizer::Tokenizer(TokenizerDefinition definition, const std::string& where)
    : state_(std::make_shared<const State>(std::move(definition), where)) {}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  const State& state = *state_;
  std::vector<std::int32_t> ids;
  if (options.add_bos) {
    if (state.definition.bos < 0) fail(ErrorKind::usage, "this tokenizer has no beginning-of-text token to add");
    ids.push_back(state.definition.bos);
  }
  ids.reserve(ids.size() + text.size() / 4);

  // Views in the cache point into `text` or into the arena, and `ids` itself holds the cached results.
  std::deque<std::string> arena;
  struct Seen {
    std::size_t begin, count;
  };
  std::unordered_map<std::string_view, Seen> cache;
  const auto encode_word = [&](std::string_view word) {
    const auto [found, is_new] = cache.try_emplace(word, Seen{ids.size(), 0});
    if (is_new) {
      std::vector<std::int32_t> fresh;
      state.words.encode(word, fresh);
      ids.insert(ids.end(), fresh.begin(), fresh.end());
      found->second.count = fresh.size();
    } else {
      for (std::size_t i = 0; i < found->second.count; ++i) ids.push_back(ids[found->second.begin + i]);
    }
  };
  const auto encode_normalized = [&](std::string_view section, bool at_start) {
    for (const std::string_view word : state.pre_tokenizer.split(section, at_start, arena)) {
      if (state.words.separates_at_spaces())
        for_each_spaced_word(word, encode_word);
      else
        encode_word(word);
    }
  };
  const auto push = [&](std::int32_t id) { ids.push_back(id); };
  state.raw_added.cut(
      text, options.parse_special,
      [&](std::string_view section, bool at_start) {
        if (!state.definition.normalize.empty())
          section = arena.emplace_back(normalize(state.definition.normalize, section));
        state.normalized_added.cut(
            section, options.parse_special,
            [&](std::string_view part, bool first) { encode_normalized(part, at_start && first); }, push);
      },
      push);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, DecodeOptions options) const {
  std::string text;
  bool drop_space = options.text_start && drops_leading_space();
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) continue;
    if (is_special(id) && !options.special_text) continue;
    text += piece(id).substr(drop_space && piece(id).starts_with(' ') ? 1 : 0);
    drop_space = false;
  }
  return text;
}

std::int32_t Tokenizer::vocab_size() const { return static_cast<std::int32_t>(state_->definition.pieces.size()); }

std::optional<std::int32_t> Tokenizer::bos() const {
  return state_->definition.bos < 0 ? std::nullopt : std::optional(state_->definition.bos);
}

std::optional<std::int32_t> Tokenizer::eos() const {
  return state_->definition.eos < 0 ? std::nullopt : std::optional(state_->definition.eos);
}

bool Tokenizer::adds_bos_by_default() const { return state_->definition.adds_bos; }
bool Tokenizer::drops_leading_space() const { return state_->definition.drops_leading_space; }
const std::string& Tokenizer::remark() const { return state_->definition.remark; }

std::string_view Tokenizer::piece(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) fail(ErrorKind::usage, "token id must be 0 to {}, found {}", vocab_size() - 1, id);
  return state_->definition.pieces[id];
}

std::string Tokenizer::to_tokenizer_json() const { return tokenizer_json(state_->definition); }
std::string Tokenizer::serialize() const { return serialize_definition(state_->definition); }

bool Tokenizer::is_special(std::int32_t id) const { return id >= 0 && id < vocab_size() && state_->special[id]; }

}  // namespace scalebits
