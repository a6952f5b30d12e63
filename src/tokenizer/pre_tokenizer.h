// Cuts a text into the words that a vocabulary was learned on. Patterns are those of tokenizer.json (Oniguruma), run by
// PCRE2. Subtle rule: `\s` means Unicode's White_Space here as there, which is not PCRE2's `\s`.
#pragma once

#include "tokenizer/definition.h"

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

inline constexpr char kGpt2Pattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr char kLlama3Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr char kQwen2Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr char kTekkenPattern[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr char kDigitPattern[] = R"(\p{N})";

class PreTokenizer {
 public:
  /// Compiles the patterns; Error naming `where` and the pattern when one is not valid.
  PreTokenizer(std::span<const SplitStep> steps, const std::string& where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// Views into `text` or into `arena` (where a step had to add a space). `at_start`: the text begins here.
  std::vector<std::string_view> split(std::string_view text, bool at_start, std::deque<std::string>& arena) const;

 private:
  struct Step;
  std::vector<Step> steps_;
};

}  // namespace scalebits
