#include "tokenizer/pre_tokenizer.h"

#include "core/error.h"
#include "tokenizer/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace scalebits {
namespace {

using Behavior = SplitStep::Behavior;

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};

/// Spells out \s and \S; a class keeps its other members.
std::string spell_out_white_space(const std::string& pattern, const std::string& where) {
  static constexpr char kWhiteSpace[] =
      R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 'S' && in_class) fail_input("{}: \\S inside a class is not known: {}", where, pattern);
      if (escaped == 's')
        result += in_class ? kWhiteSpace : fmt::format("[{}]", kWhiteSpace);
      else if (escaped == 'S')
        result += fmt::format("[^{}]", kWhiteSpace);
      else
        result += {c, escaped};
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}

std::unique_ptr<pcre2_code, FreeCode> compile(const std::string& pattern, const std::string& where) {
  const std::string spelled = spell_out_white_space(pattern, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  std::unique_ptr<pcre2_code, FreeCode> code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                                           PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error,
                                                           &offset, nullptr));
  if (!code) {
    char message[200] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
    fail_input("{}: not a valid pattern ({}): {}", where, message, pattern);
  }
  // Without a JIT (an unknown processor) the interpreter runs the same code: only speed depends on the result.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

struct Part {
  std::string_view text;
  bool matched;
};

/// Parts of one behaviour's result; `parts` alternate freely between matched and not.
void append_parts(const std::vector<Part>& parts, Behavior behavior, std::vector<std::string_view>& out) {
  const auto join = [&](std::size_t first, std::size_t last) {  // inclusive; parts lie side by side in memory
    const char* begin = parts[first].text.data();
    out.emplace_back(begin, static_cast<std::size_t>(parts[last].text.data() + parts[last].text.size() - begin));
  };
  for (std::size_t i = 0; i < parts.size(); ++i) {
    switch (behavior) {
      case Behavior::isolated: join(i, i); break;
      case Behavior::removed:
        if (!parts[i].matched) join(i, i);
        break;
      case Behavior::contiguous: {
        const std::size_t first = i;
        while (i + 1 < parts.size() && parts[i + 1].matched == parts[first].matched) ++i;
        join(first, i);
        break;
      }
      case Behavior::merged_with_previous:
        if (!parts[i].matched && i + 1 < parts.size() && parts[i + 1].matched)
          join(i, i + 1), ++i;
        else
          join(i, i);
        break;
      case Behavior::merged_with_next:
        if (parts[i].matched && i + 1 < parts.size() && !parts[i + 1].matched)
          join(i, i + 1), ++i;
        else
          join(i, i);
        break;
    }
  }
}

}  // namespace

struct PreTokenizer::Step {
  SplitStep definition;
  std::unique_ptr<pcre2_code, FreeCode> code;

  void find_parts(std::string_view run, pcre2_match_data* match, std::vector<Part>& parts) const {
    const auto add = [&](std::size_t begin, std::size_t end, bool matched) {
      if (end > begin) parts.push_back({run.substr(begin, end - begin), matched != definition.invert});
    };
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(run.data());
    std::size_t taken = 0;
    for (std::size_t at = 0; at < run.size();) {
      int found = pcre2_match(code.get(), subject, run.size(), at, PCRE2_NO_UTF_CHECK, match, nullptr);
      if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code.get(), subject, run.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, nullptr);
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0)
        fail_input("tokenizer: this text is too hard for the pattern (PCRE2 error {}): {}", found, definition.pattern);
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match);
      if (bounds[1] <= bounds[0]) {  // an empty match separates nothing here
        at = bounds[0] + utf8_length(run, bounds[0]);
        if (at <= bounds[0]) break;
        continue;
      }
      add(taken, bounds[0], false);
      add(bounds[0], bounds[1], true);
      at = taken = bounds[1];
    }
    add(taken, run.size(), false);
  }
};

PreTokenizer::PreTokenizer(std::span<const SplitStep> steps, const std::string& where) {
  for (const SplitStep& step : steps)
    steps_.push_back({step, step.kind == SplitStep::Kind::regex ? compile(step.pattern, where) : nullptr});
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text, bool at_start,
                                                  std::deque<std::string>& arena) const {
  std::vector<std::string_view> words{text};
  std::vector<Part> parts;
  for (const Step& step : steps_) {
    if (step.definition.kind != SplitStep::Kind::regex) {
      for (std::size_t i = 0; i < words.size(); ++i) {
        const bool wanted = step.definition.kind == SplitStep::Kind::prefix_space || (at_start && i == 0);
        if (wanted && !words[i].empty() && words[i][0] != ' ') words[i] = arena.emplace_back(1, ' ').append(words[i]);
      }
      continue;
    }
    const std::unique_ptr<pcre2_match_data, FreeMatch> match(
        pcre2_match_data_create_from_pattern(step.code.get(), nullptr));
    std::vector<std::string_view> next;
    next.reserve(words.size());
    for (const std::string_view word : words) {
      for_each_utf8_run(word, [&](std::string_view run, bool valid) {
        parts.clear();
        if (valid)
          step.find_parts(run, match.get(), parts);
        else
          parts.push_back({run, false});
        // Separators are removed, bytes that are no text are not.
        append_parts(parts, valid ? step.definition.behavior : Behavior::isolated, next);
      });
    }
    words = std::move(next);
  }
  return words;
}

}  // namespace scalebits
