#include "tokenizer/word_model.h"

#include "core/error.h"
#include "tokenizer/utf8.h"

#include <algorithm>
#include <limits>
#include <queue>

namespace scalebits {
namespace {

using Model = TokenizerDefinition::Model;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

/// The better merge first, then the one further left: the order both reference implementations use.
struct QueuedMerge {
  double priority;  // lower is better: the rank, or minus the score
  std::int32_t left, right;
  std::int32_t result;
  std::uint32_t length;  // bytes of both symbols when queued

  bool operator<(const QueuedMerge& other) const {
    return priority != other.priority ? priority > other.priority : left > other.left;
  }
};

constexpr std::size_t kMaxWordBytes = std::numeric_limits<std::int32_t>::max();

/// What SentencePiece subtracts from the lowest score for a character outside the vocabulary.
constexpr float kUnknownPenalty = 10;

}  // namespace

WordModel::WordModel(const TokenizerDefinition& definition) : definition_(definition) {
  byte_ids_.fill(-1);
  lowest_score_ = std::numeric_limits<float>::max();
  highest_score_ = std::numeric_limits<float>::lowest();
  bool joins_before_space = false;
  const auto size = static_cast<std::int32_t>(definition.pieces.size());
  ids_.reserve(static_cast<std::size_t>(size));
  for (std::int32_t id = 0; id < size; ++id) {
    const std::string& piece = definition.pieces[id];
    const TokenKind kind = definition.kinds[id];
    const auto first = piece.empty() ? 0 : static_cast<unsigned char>(piece[0]);
    if (kind == TokenKind::byte) byte_ids_[first] = id;
    if (piece.empty() || (kind != TokenKind::normal && kind != TokenKind::user_defined && kind != TokenKind::unused))
      continue;
    ids_.emplace(piece, id);
    longest_piece_ = std::max(longest_piece_, piece.size());
    if (definition.byte_level && piece.size() == 1) byte_ids_[first] = id;
    if (kind == TokenKind::user_defined) user_defined_[first].push_back(id);
    for (std::size_t i = 1; i < piece.size(); ++i) joins_before_space |= piece[i] == ' ' && piece[i - 1] != ' ';
    if (!definition.scores.empty() && kind == TokenKind::normal) {
      lowest_score_ = std::min(lowest_score_, definition.scores[id]);
      highest_score_ = std::max(highest_score_, definition.scores[id]);
    }
  }
  for (auto& candidates : user_defined_)
    std::stable_sort(candidates.begin(), candidates.end(), [&](std::int32_t a, std::int32_t b) {
      return definition.pieces[a].size() > definition.pieces[b].size();
    });
  ranks_.reserve(definition.merges.size());
  for (std::size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const Merge& merge = definition.merges[rank];
    // A pair listed twice has its last rank, as in Hugging Face's map.
    ranks_[pair_key(merge.left, merge.right)] = {static_cast<std::uint32_t>(rank), merge.result};
  }
  // Unigram adds scores in single precision along the text, so that a cut could turn a near tie.
  separates_at_spaces_ = !joins_before_space && definition.model != Model::unigram;
}

std::int32_t WordModel::find(std::string_view piece) const {
  if (piece.size() > longest_piece_) return -1;
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

bool WordModel::append_fallback(std::string_view character, std::vector<std::int32_t>& ids) const {
  if (!definition_.byte_fallback) return false;
  for (const char byte : character)
    if (byte_ids_[static_cast<unsigned char>(byte)] < 0) return false;
  for (const char byte : character) ids.push_back(byte_ids_[static_cast<unsigned char>(byte)]);
  return true;
}

void WordModel::append_symbol(std::string_view text, std::int32_t id, std::vector<std::int32_t>& ids) const {
  if (id >= 0) {
    ids.push_back(id);
  } else if (!append_fallback(text, ids) && definition_.unknown >= 0) {
    if (!definition_.fuse_unknown || ids.empty() || ids.back() != definition_.unknown)
      ids.push_back(definition_.unknown);
  }
}

std::size_t WordModel::user_defined_length(std::string_view word, std::size_t at) const {
  for (const std::int32_t id : user_defined_[static_cast<unsigned char>(word[at])])
    if (word.substr(at).starts_with(definition_.pieces[id])) return definition_.pieces[id].size();
  return 0;
}

std::vector<WordModel::Symbol> WordModel::initial_symbols(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t frozen = user_defined_length(word, at);
    const std::size_t length = frozen > 0               ? frozen
                               : definition_.byte_level ? 1
                                                        : std::max<std::size_t>(1, utf8_length(word, at));
    Symbol symbol{static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at + length)};
    symbol.frozen = frozen > 0;
    at += length;
    symbol.id = definition_.byte_level && !symbol.frozen ? byte_ids_[static_cast<unsigned char>(word[symbol.begin])]
                                                         : find(word.substr(symbol.begin, symbol.end - symbol.begin));
    // Hugging Face's BPE drops a byte that has no token, and merges across the gap.
    if (symbol.id < 0 && definition_.byte_level && definition_.unknown < 0) continue;
    symbol.previous = static_cast<std::int32_t>(symbols.size()) - 1;
    symbol.next = static_cast<std::int32_t>(symbols.size()) + 1;
    symbols.push_back(symbol);
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

/// candidate(left, right, queued): whether the two may merge; fills priority and result.
template <typename Candidate>
void WordModel::merge(std::vector<Symbol>& symbols, const Candidate& candidate) const {
  const auto length = [&](std::int32_t i) { return symbols[i].end - symbols[i].begin; };
  const auto consider = [&](std::int32_t left, std::int32_t right, auto&& take) {
    if (left < 0 || right < 0 || symbols[left].frozen || symbols[right].frozen) return;
    QueuedMerge queued{0, left, right, -1, length(left) + length(right)};
    if (candidate(symbols[left], symbols[right], queued)) take(queued);
  };
  std::vector<QueuedMerge> first;
  for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(symbols.size()); ++i)
    consider(i, i + 1, [&](const QueuedMerge& queued) { first.push_back(queued); });
  std::priority_queue<QueuedMerge> queue(std::less<QueuedMerge>(), std::move(first));
  const auto push = [&](const QueuedMerge& queued) { queue.push(queued); };
  while (!queue.empty()) {
    const QueuedMerge top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.left];
    Symbol& right = symbols[top.right];
    // Symbols only grow or vanish, so equal neighbours of equal total length are the ones that were queued.
    if (length(top.left) == 0 || length(top.right) == 0 || left.next != top.right ||
        length(top.left) + length(top.right) != top.length)
      continue;
    left.end = right.end;
    left.id = top.result;
    left.next = right.next;
    right.begin = right.end;
    if (left.next >= 0) symbols[left.next].previous = top.left;
    consider(left.previous, top.left, push);
    consider(top.left, left.next, push);
  }
}

void WordModel::encode_ranked(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (definition_.ignore_merges) {
    const std::int32_t whole = find(word);
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  std::vector<Symbol> symbols = initial_symbols(word);
  if (definition_.byte_fallback && !definition_.byte_level) {
    // Here byte tokens are symbols like all others before merging starts.
    std::vector<Symbol> expanded;
    std::vector<std::int32_t> bytes;
    for (const Symbol& symbol : symbols) {
      bytes.clear();
      if (symbol.id >= 0 || !append_fallback(word.substr(symbol.begin, symbol.end - symbol.begin), bytes)) {
        expanded.push_back(symbol);
      } else {
        for (std::uint32_t i = 0; i < bytes.size(); ++i)
          expanded.push_back({symbol.begin + i, symbol.begin + i + 1, -1, -1, bytes[i]});
      }
    }
    symbols = std::move(expanded);
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      symbols[i].previous = static_cast<std::int32_t>(i) - 1;
      symbols[i].next = i + 1 < symbols.size() ? static_cast<std::int32_t>(i) + 1 : -1;
    }
  }
  merge(symbols, [&](const Symbol& left, const Symbol& right, QueuedMerge& queued) {
    const auto found = ranks_.find(pair_key(left.id, right.id));
    if (found == ranks_.end()) return false;
    queued.priority = found->second.rank;
    queued.result = found->second.result;
    return true;
  });
  for (std::int32_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next)
    append_symbol(word.substr(symbols[i].begin, symbols[i].end - symbols[i].begin), symbols[i].id, ids);
}

void WordModel::append_unused(std::int32_t id, std::vector<std::int32_t>& ids, int depth) const {
  // An unused piece is taken apart into the best pair it can be made of; SentencePiece takes the pair merged last.
  const std::string_view piece = definition_.pieces[id];
  constexpr int kMaxDepth = 64;
  if (definition_.kinds[id] != TokenKind::unused || depth > kMaxDepth) {
    ids.push_back(id);
    return;
  }
  for (std::size_t cut = 1; cut < piece.size(); ++cut) {
    const std::int32_t left = find(piece.substr(0, cut)), right = find(piece.substr(cut));
    if (left < 0 || right < 0) continue;
    append_unused(left, ids, depth + 1);
    append_unused(right, ids, depth + 1);
    return;
  }
  ids.push_back(id);
}

void WordModel::encode_scored(std::string_view word, std::vector<std::int32_t>& ids) const {
  std::vector<Symbol> symbols = initial_symbols(word);
  merge(symbols, [&](const Symbol& left, const Symbol& right, QueuedMerge& queued) {
    queued.result = find(word.substr(left.begin, right.end - left.begin));
    if (queued.result < 0) return false;
    queued.priority = -definition_.scores[queued.result];
    return true;
  });
  for (std::int32_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[i].next) {
    const Symbol& symbol = symbols[i];
    if (symbol.id >= 0 && definition_.kinds[symbol.id] == TokenKind::unused)
      append_unused(symbol.id, ids, 0);
    else
      append_symbol(word.substr(symbol.begin, symbol.end - symbol.begin), symbol.id, ids);
  }
}

void WordModel::encode_unigram(std::string_view word, std::vector<std::int32_t>& ids) const {
  struct Best {
    float score = 0;
    std::int64_t from = -1;
    std::int32_t id = -1;
  };
  std::vector<Best> best(word.size() + 1);
  const float unknown_score = lowest_score_ - kUnknownPenalty;
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t character = std::max<std::size_t>(1, utf8_length(word, at));
    const float base = best[at].score;
    const auto offer = [&](std::size_t end, float score, std::int32_t id) {
      if (best[end].from < 0 || score > best[end].score) best[end] = {score, static_cast<std::int64_t>(at), id};
    };
    bool covered = false;
    for (std::size_t length = 1; length <= longest_piece_ && at + length <= word.size(); ++length) {
      const std::int32_t id = find(word.substr(at, length));
      if (id < 0 || definition_.kinds[id] == TokenKind::unused) continue;
      const float score = definition_.kinds[id] == TokenKind::user_defined
                              ? static_cast<float>(length) * highest_score_ - 0.1f
                              : definition_.scores[id];
      offer(at + length, base + score, id);
      covered |= length == character;
    }
    if (!covered) offer(at + character, base + unknown_score, -1);
    at += character;
  }
  std::vector<std::pair<std::size_t, std::size_t>> path;
  for (std::size_t end = word.size(); end > 0; end = static_cast<std::size_t>(best[end].from))
    path.emplace_back(static_cast<std::size_t>(best[end].from), end);
  for (auto part = path.rbegin(); part != path.rend(); ++part)
    append_symbol(word.substr(part->first, part->second - part->first), best[part->second].id, ids);
}

void WordModel::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (word.size() > kMaxWordBytes)
    fail_input("tokenizer: a word of {} bytes; at most {} are known", word.size(), kMaxWordBytes);
  switch (definition_.model) {
    case Model::ranked_merges: return encode_ranked(word, ids);
    case Model::scored_merges: return encode_scored(word, ids);
    case Model::unigram: return encode_unigram(word, ids);
  }
}

}  // namespace scalebits
