// A definition as Hugging Face's tokenizer.json, for folders whose source had none (a GGUF file's vocabulary).
// SentencePiece's scored merges become ranked ones as Hugging Face's own converter makes them: every way to put a piece
// together, the best-scored piece first.
#include "core/json.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary_builder.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

namespace scalebits {
namespace {

constexpr std::string_view kSpaceSymbol = "▁";

/// Objects by key: a vocabulary in Json's linear ones would take minutes.
using SortedJson = nlohmann::json;

/// Steps that tokenizer.json has no like for end the attempt.
struct NoLike {};

class Writer {
 public:
  explicit Writer(const TokenizerDefinition& definition) : definition_(definition) {
    if (definition.model == TokenizerDefinition::Model::unigram) throw NoLike();
    if (!definition.byte_level && !definition.byte_fallback) throw NoLike();
    for (std::size_t id = 0; id < definition.pieces.size(); ++id) {
      // One symbol inside a word, where an added token of that format would end the word.
      if (!definition.byte_level && definition.kinds[id] == TokenKind::user_defined) throw NoLike();
      spelled_.push_back(spelling(id));
    }
  }

  SortedJson json() const {
    SortedJson vocabulary = SortedJson::object(), added = SortedJson::array();
    for (const bool text : {true, false})  // what no text becomes may be spelled like what some does
      for (std::size_t id = 0; id < spelled_.size(); ++id)
        if (is_text(id) == text && !spelled_[id].empty() && !vocabulary.contains(spelled_[id]))
          vocabulary[spelled_[id]] = id;
    for (const AddedToken& token : definition_.added)
      added.push_back({{"id", token.id},
                       {"content", definition_.pieces[static_cast<std::size_t>(token.id)]},
                       {"single_word", token.single_word},
                       {"lstrip", token.left_strip},
                       {"rstrip", token.right_strip},
                       {"normalized", token.normalized},
                       {"special", token.special}});
    const SortedJson unknown =
        definition_.unknown >= 0 ? SortedJson(spelled_[static_cast<std::size_t>(definition_.unknown)]) : SortedJson();
    return {{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", added},
            {"normalizer", normalizer()},
            {"pre_tokenizer", pre_tokenizer()},
            {"post_processor", post_processor()},
            {"decoder", decoder()},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", unknown},
              {"continuing_subword_prefix", nullptr},
              {"end_of_word_suffix", nullptr},
              {"fuse_unk", definition_.fuse_unknown},
              {"byte_fallback", definition_.byte_fallback},
              {"ignore_merges", definition_.ignore_merges},
              {"vocab", vocabulary},
              {"merges", merges()}}}};
  }

 private:
  bool is_text(std::size_t id) const {
    return definition_.kinds[id] == TokenKind::normal || definition_.kinds[id] == TokenKind::user_defined ||
           definition_.kinds[id] == TokenKind::unused;
  }

  std::string spelling(std::size_t id) const {
    const std::string& piece = definition_.pieces[id];
    if (definition_.kinds[id] == TokenKind::byte)
      return fmt::format("<0x{:02X}>", static_cast<unsigned char>(piece[0]));
    if (!is_text(id)) return piece;
    if (definition_.byte_level) return byte_level_text(piece);
    std::string text;
    for (const char c : piece) text += c == ' ' ? std::string(kSpaceSymbol) : std::string(1, c);
    return text;
  }

  static SortedJson sequence(const char* key, SortedJson steps) {
    if (steps.empty()) return nullptr;
    if (steps.size() == 1) return steps[0];
    return {{"type", "Sequence"}, {key, std::move(steps)}};
  }

  SortedJson normalizer() const {
    using Kind = NormalizeStep::Kind;
    SortedJson steps = SortedJson::array();
    for (const NormalizeStep& step : definition_.normalize) switch (step.kind) {
        case Kind::nfc: steps.push_back({{"type", "NFC"}}); break;
        case Kind::nfd: steps.push_back({{"type", "NFD"}}); break;
        case Kind::nfkc: steps.push_back({{"type", "NFKC"}}); break;
        case Kind::nfkd: steps.push_back({{"type", "NFKD"}}); break;
        case Kind::prepend:
          steps.push_back({{"type", "Prepend"}, {"prepend", step.to == " " ? kSpaceSymbol : step.to}});
          break;
        case Kind::replace: {
          // Pieces have real spaces here, where the file writes U+2581.
          const bool spaces = step.from == kSpaceSymbol && step.to == " ";
          steps.push_back({{"type", "Replace"},
                           {"pattern", {{"String", spaces ? " " : step.from}}},
                           {"content", spaces ? kSpaceSymbol : step.to}});
          break;
        }
        default: throw NoLike();
      }
    return sequence("normalizers", std::move(steps));
  }

  SortedJson pre_tokenizer() const {
    if (!definition_.byte_level) {
      if (!definition_.split.empty()) throw NoLike();
      return nullptr;
    }
    static constexpr const char* kBehaviors[kSplitBehaviors] = {"Isolated", "Removed", "Contiguous",
                                                                "MergedWithPrevious", "MergedWithNext"};
    SortedJson steps = SortedJson::array();
    for (const SplitStep& step : definition_.split) {
      if (step.kind != SplitStep::Kind::regex) throw NoLike();
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", step.pattern}}},
                       {"behavior", kBehaviors[static_cast<std::size_t>(step.behavior)]},
                       {"invert", step.invert}});
    }
    steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
    return sequence("pretokenizers", std::move(steps));
  }

  SortedJson post_processor() const {
    if (!definition_.adds_bos || definition_.bos < 0) return nullptr;
    const std::string& name = definition_.pieces[static_cast<std::size_t>(definition_.bos)];
    const auto special = [&](int type) { return SortedJson{{"SpecialToken", {{"id", name}, {"type_id", type}}}}; };
    const auto text = [](const char* id, int type) {
      return SortedJson{{"Sequence", {{"id", id}, {"type_id", type}}}};
    };
    return {{"type", "TemplateProcessing"},
            {"single", {special(0), text("A", 0)}},
            {"pair", {special(0), text("A", 0), special(1), text("B", 1)}},
            {"special_tokens", {{name, {{"id", name}, {"ids", {definition_.bos}}, {"tokens", {name}}}}}}};
  }

  SortedJson decoder() const {
    if (definition_.byte_level)
      return {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
    SortedJson steps = {{{"type", "Replace"}, {"pattern", {{"String", kSpaceSymbol}}}, {"content", " "}},
                        {{"type", "ByteFallback"}},
                        {{"type", "Fuse"}}};
    if (definition_.drops_leading_space)
      steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    return sequence("decoders", std::move(steps));
  }

  SortedJson merges() const {
    SortedJson all = SortedJson::array();
    if (definition_.model == TokenizerDefinition::Model::ranked_merges) {
      for (const Merge& merge : definition_.merges) all.push_back({spelled_[merge.left], spelled_[merge.right]});
      return all;
    }
    std::unordered_map<std::string_view, std::size_t> ids;
    for (std::size_t id = 0; id < definition_.pieces.size(); ++id)
      if (is_text(id)) ids.emplace(definition_.pieces[id], id);
    std::vector<std::tuple<float, std::size_t, std::size_t>> found;  // −score, left, right
    for (std::size_t id = 0; id < definition_.pieces.size(); ++id) {
      if (!is_text(id)) continue;
      const std::string_view piece = definition_.pieces[id];
      const auto first = static_cast<std::ptrdiff_t>(found.size());
      for (std::size_t cut = 1; cut < piece.size(); ++cut) {
        const auto left = ids.find(piece.substr(0, cut)), right = ids.find(piece.substr(cut));
        if (left != ids.end() && right != ids.end())
          found.emplace_back(-definition_.scores[id], left->second, right->second);
      }
      std::sort(found.begin() + first, found.end());
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const auto& a, const auto& b) { return std::get<0>(a) < std::get<0>(b); });
    for (const auto& [score, left, right] : found) all.push_back({spelled_[left], spelled_[right]});
    return all;
  }

  const TokenizerDefinition& definition_;
  std::vector<std::string> spelled_;  // by id, as the file spells it
};

}  // namespace

std::string tokenizer_json(const TokenizerDefinition& definition) {
  try {
    return Writer(definition).json().dump() + "\n";
  } catch (const NoLike&) {
    return "";
  } catch (const SortedJson::type_error&) {  // pieces that are not UTF-8
    return "";
  }
}

}  // namespace scalebits
