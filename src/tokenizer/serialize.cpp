// The tokenizer inside an artifact. Subtle rule: a piece that is the concatenation of an earlier merge's parts is not
// stored; for a byte-level vocabulary little more than the merges remains. See docs/format.md; layout:
//   "SBTK", u8 version, varint size of the body, then the body as one zlib stream:
//   u8 flags, u8 model, varint (1 + id) of bos, eos, unknown, varint tokens
//   kinds       as runs: varint count, u8 kind
//   pieces      varint stored; per stored piece varint (id - previous stored id - 1); lengths as varints; bytes
//   scores      (only models with scores) u8 form: 0 = zigzag varints of differences, 1 = f32, byte plane by byte plane
//   merges      varint count; left ids and right ids in byte planes; zigzag varints of (result - previous result - 1)
//   added       varint count; varint id, u8 flags
//   normalize   varint count; u8 kind, string, string;    split: varint count; u8 kind, string, u8 behavior, u8 invert
// Varints are LEB128, strings a varint length and bytes, ids in planes take 1, 2 or 3 bytes as the vocabulary needs.
#include "core/error.h"
#include "tokenizer/definition.h"
#include "tokenizer/tokenizer.h"

#include <zlib.h>

#include <bit>
#include <cmath>

namespace scalebits {
namespace {

constexpr std::string_view kMagic = "SBTK";
constexpr std::uint8_t kVersion = 1;
/// Deflate cannot expand by more than this.
constexpr std::uint64_t kMaxInflation = 1040;
constexpr std::uint64_t kMaxAllPiecesBytes = std::uint64_t{1} << 28;

std::size_t id_bytes(std::size_t vocabulary) { return vocabulary <= 0x100 ? 1 : vocabulary <= 0x10000 ? 2 : 3; }

class Writer {
 public:
  std::string bytes;

  void byte(std::uint8_t value) { bytes += static_cast<char>(value); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) byte(static_cast<std::uint8_t>(value | 0x80));
    byte(static_cast<std::uint8_t>(value));
  }
  void zigzag(std::int64_t value) {
    varint(static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63));
  }
  void string(std::string_view text) {
    varint(text.size());
    bytes += text;
  }
};

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {}

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size())
      fail_input("{}: tokenizer is cut short: wanted {} bytes more, found {}", where_, count, rest_.size());
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  std::uint8_t byte() { return static_cast<std::uint8_t>(take(1)[0]); }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 63; shift += 7) {
      const std::uint8_t next = byte();
      value |= std::uint64_t{next & 0x7fu} << shift;
      if (next < 0x80) return value;
    }
    fail_input("{}: tokenizer holds a number of more than 63 bits", where_);
  }
  std::int64_t zigzag() {
    const std::uint64_t value = varint();
    return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
  }
  /// A count of things that take at least a byte each, and of which there are no more than `limit`.
  std::size_t count(const char* what, std::uint64_t limit) {
    const std::uint64_t value = varint();
    if (value > limit) fail_input("{}: tokenizer may have at most {} {}, claims {}", where_, limit, what, value);
    if (value > rest_.size()) fail_input("{}: tokenizer claims {} {} in {} bytes", where_, value, what, rest_.size());
    return static_cast<std::size_t>(value);
  }
  std::string string() { return std::string(take(varint())); }
  template <typename Enum>
  Enum enumeration(int known, const char* what) {
    const std::uint8_t value = byte();
    if (value >= known)
      fail_input("{}: tokenizer has the unknown {} {}; known are 0 to {}", where_, what, value, known - 1);
    return static_cast<Enum>(value);
  }
  std::size_t left() const { return rest_.size(); }

 private:
  std::string_view rest_;
  const std::string& where_;
};

/// Which pieces a reader can rebuild by walking the merges in order, when it is told all others.
std::vector<bool> rebuildable_pieces(const TokenizerDefinition& definition) {
  std::vector<bool> rebuildable(definition.pieces.size(), false), known(definition.pieces.size(), true);
  for (const Merge& merge : definition.merges) rebuildable[merge.result] = true, known[merge.result] = false;
  const auto store = [&](std::int32_t id) {
    if (!known[id]) known[id] = true, rebuildable[id] = false;
  };
  for (const Merge& merge : definition.merges) {
    store(merge.left);
    store(merge.right);
    if (known[merge.result]) continue;
    known[merge.result] = true;
    if (definition.pieces[merge.result] != definition.pieces[merge.left] + definition.pieces[merge.right])
      rebuildable[merge.result] = false;
  }
  return rebuildable;
}

void write_pieces(const TokenizerDefinition& definition, Writer& out) {
  const std::vector<bool> rebuildable = rebuildable_pieces(definition);
  std::vector<std::size_t> stored;
  for (std::size_t id = 0; id < rebuildable.size(); ++id)
    if (!rebuildable[id]) stored.push_back(id);
  out.varint(stored.size());
  std::size_t expected = 0;
  for (const std::size_t id : stored) {
    out.varint(id - expected);
    expected = id + 1;
  }
  for (const std::size_t id : stored) out.varint(definition.pieces[id].size());
  for (const std::size_t id : stored) out.bytes += definition.pieces[id];
}

std::vector<bool> read_pieces(Reader& in, TokenizerDefinition& definition, const std::string& where) {
  std::vector<std::size_t> stored(in.count("stored pieces", kMaxVocabulary));
  std::vector<bool> known(definition.pieces.size(), false);
  std::uint64_t expected = 0;
  for (std::size_t& id : stored) {
    expected += in.varint();
    if (expected >= definition.pieces.size())
      fail_input("{}: tokenizer stores a piece for token {} of {}", where, expected, definition.pieces.size());
    id = static_cast<std::size_t>(expected++);
    known[id] = true;
  }
  std::vector<std::uint64_t> lengths;
  for (std::size_t i = 0; i < stored.size(); ++i) lengths.push_back(in.varint());
  for (std::size_t i = 0; i < stored.size(); ++i) definition.pieces[stored[i]] = in.take(lengths[i]);
  return known;
}

void write_scores(const std::vector<float>& scores, Writer& out) {
  bool integral = true;
  for (const float score : scores)
    integral &= std::abs(score) < 0x1p24f && score == std::floor(score) && !(score == 0 && std::signbit(score));
  out.byte(integral ? 0 : 1);
  if (integral) {
    std::int64_t previous = 0;
    for (const float score : scores) {
      out.zigzag(static_cast<std::int64_t>(score) - previous);
      previous = static_cast<std::int64_t>(score);
    }
    return;
  }
  for (int plane = 0; plane < 4; ++plane)
    for (const float score : scores)
      out.byte(static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(score) >> (8 * plane)));
}

void read_scores(Reader& in, std::vector<float>& scores, const std::string& where) {
  const std::uint8_t form = in.byte();
  if (form > 1) fail_input("{}: tokenizer has the unknown form of scores {}; known are 0, 1", where, form);
  if (form == 0) {
    std::int64_t value = 0;
    for (float& score : scores) {
      const std::int64_t step = in.zigzag();
      if (std::abs(step) > 1 << 26) fail_input("{}: tokenizer has a score out of range", where);
      value += step;
      if (std::abs(value) >= 1 << 24) fail_input("{}: tokenizer has a score out of range", where);
      score = static_cast<float>(value);
    }
    return;
  }
  std::vector<std::uint32_t> bits(scores.size(), 0);
  for (int plane = 0; plane < 4; ++plane) {
    const std::string_view bytes = in.take(scores.size());
    for (std::size_t i = 0; i < bits.size(); ++i)
      bits[i] |= std::uint32_t{static_cast<unsigned char>(bytes[i])} << (8 * plane);
  }
  for (std::size_t i = 0; i < bits.size(); ++i) scores[i] = std::bit_cast<float>(bits[i]);
}

void write_merges(const TokenizerDefinition& definition, Writer& out) {
  out.varint(definition.merges.size());
  for (const auto side : {&Merge::left, &Merge::right})
    for (std::size_t plane = 0; plane < id_bytes(definition.pieces.size()); ++plane)
      for (const Merge& merge : definition.merges) out.byte(static_cast<std::uint8_t>(merge.*side >> (8 * plane)));
  std::int64_t expected = 0;
  for (const Merge& merge : definition.merges) {
    out.zigzag(merge.result - expected);
    expected = merge.result + 1;
  }
}

void read_merges(Reader& in, TokenizerDefinition& definition, std::vector<bool> known, const std::string& where) {
  definition.merges.resize(in.count("merges", kMaxAllPiecesBytes));
  for (const auto side : {&Merge::left, &Merge::right})
    for (std::size_t plane = 0; plane < id_bytes(definition.pieces.size()); ++plane) {
      const std::string_view bytes = in.take(definition.merges.size());
      for (std::size_t i = 0; i < bytes.size(); ++i)
        definition.merges[i].*side |= static_cast<std::int32_t>(static_cast<unsigned char>(bytes[i])) << (8 * plane);
    }
  const auto size = static_cast<std::int64_t>(definition.pieces.size());
  std::int64_t expected = 0;
  std::uint64_t total_bytes = 0;
  for (Merge& merge : definition.merges) {
    const std::int64_t step = in.zigzag();
    if (step < -expected || step >= size - expected || merge.left >= size || merge.right >= size ||
        !known[merge.left] || !known[merge.right])
      fail_input("{}: tokenizer has a merge of tokens {} and {} that are not there yet", where, merge.left,
                 merge.right);
    merge.result = static_cast<std::int32_t>(expected + step);
    expected = merge.result + 1;
    if (known[merge.result]) continue;
    known[merge.result] = true;
    definition.pieces[merge.result] = definition.pieces[merge.left] + definition.pieces[merge.right];
    total_bytes += definition.pieces[merge.result].size();
    if (total_bytes > kMaxAllPiecesBytes || definition.pieces[merge.result].size() > kMaxPieceBytes)
      fail_input("{}: the tokenizer's pieces take more than {} bytes each or {} in all", where, kMaxPieceBytes,
                 kMaxAllPiecesBytes);
  }
  for (std::size_t id = 0; id < known.size(); ++id)
    if (!known[id]) fail_input("{}: tokenizer has no piece for token {}", where, id);
}

std::uint8_t flags_of(const TokenizerDefinition& d) {
  return static_cast<std::uint8_t>(d.byte_level | d.byte_fallback << 1 | d.fuse_unknown << 2 | d.ignore_merges << 3 |
                                   d.adds_bos << 4 | d.drops_leading_space << 5);
}

std::uint8_t flags_of(const AddedToken& t) {
  return static_cast<std::uint8_t>(t.special | t.left_strip << 1 | t.right_strip << 2 | t.single_word << 3 |
                                   t.normalized << 4);
}

std::string write_body(const TokenizerDefinition& definition) {
  Writer out;
  out.byte(flags_of(definition));
  out.byte(static_cast<std::uint8_t>(definition.model));
  for (const std::int32_t id : {definition.bos, definition.eos, definition.unknown})
    out.varint(static_cast<std::uint64_t>(id + 1));
  out.varint(definition.pieces.size());
  for (std::size_t begin = 0, end = 0; begin < definition.kinds.size(); begin = end) {
    while (end < definition.kinds.size() && definition.kinds[end] == definition.kinds[begin]) ++end;
    out.varint(end - begin);
    out.byte(static_cast<std::uint8_t>(definition.kinds[begin]));
  }
  write_pieces(definition, out);
  if (!definition.scores.empty()) write_scores(definition.scores, out);
  write_merges(definition, out);
  out.varint(definition.added.size());
  for (const AddedToken& token : definition.added) {
    out.varint(static_cast<std::uint64_t>(token.id));
    out.byte(flags_of(token));
  }
  out.varint(definition.normalize.size());
  for (const NormalizeStep& step : definition.normalize) {
    out.byte(static_cast<std::uint8_t>(step.kind));
    out.string(step.from);
    out.string(step.to);
  }
  out.varint(definition.split.size());
  for (const SplitStep& step : definition.split) {
    out.byte(static_cast<std::uint8_t>(step.kind));
    out.string(step.pattern);
    out.byte(static_cast<std::uint8_t>(step.behavior));
    out.byte(step.invert);
  }
  return std::move(out.bytes);
}

TokenizerDefinition read_body(std::string_view body, const std::string& where) {
  Reader in(body, where);
  TokenizerDefinition definition;
  const std::uint8_t flags = in.byte();
  definition.byte_level = flags & 1;
  definition.byte_fallback = flags & 2;
  definition.fuse_unknown = flags & 4;
  definition.ignore_merges = flags & 8;
  definition.adds_bos = flags & 16;
  definition.drops_leading_space = flags & 32;
  if (flags >= 64) fail_input("{}: tokenizer has unknown flags {}", where, flags);
  definition.model = in.enumeration<TokenizerDefinition::Model>(kModels, "model");
  const auto id = [&](std::uint64_t limit) {
    const std::uint64_t value = in.varint();
    if (value > limit) fail_input("{}: tokenizer holds the id {}, above {}", where, value, limit);
    return static_cast<std::int32_t>(value);
  };
  for (std::int32_t* special : {&definition.bos, &definition.eos, &definition.unknown})
    *special = id(kMaxVocabulary) - 1;
  const std::size_t size = in.count("tokens", kMaxVocabulary);
  definition.pieces.resize(size);
  while (definition.kinds.size() < size) {
    const std::uint64_t run = in.varint();
    if (run == 0 || run > size - definition.kinds.size())
      fail_input("{}: tokenizer has a run of {} token kinds", where, run);
    definition.kinds.insert(definition.kinds.end(), static_cast<std::size_t>(run),
                            in.enumeration<TokenKind>(kTokenKinds, "token kind"));
  }
  const std::vector<bool> known = read_pieces(in, definition, where);
  if (definition.model != TokenizerDefinition::Model::ranked_merges) {
    definition.scores.resize(size);
    read_scores(in, definition.scores, where);
  }
  read_merges(in, definition, known, where);
  definition.added.resize(in.count("added tokens", kMaxVocabulary));
  for (AddedToken& token : definition.added) {
    token.id = id(kMaxVocabulary);
    const std::uint8_t bits = in.byte();
    if (bits >= 32) fail_input("{}: tokenizer has unknown flags {} of an added token", where, bits);
    token = {token.id, bool(bits & 1), bool(bits & 2), bool(bits & 4), bool(bits & 8), bool(bits & 16)};
  }
  definition.normalize.resize(in.count("normalizers", kMaxTextSteps));
  for (NormalizeStep& step : definition.normalize) {
    step.kind = in.enumeration<NormalizeStep::Kind>(kNormalizeKinds, "normalizer");
    step.from = in.string();
    step.to = in.string();
  }
  definition.split.resize(in.count("splits", kMaxTextSteps));
  for (SplitStep& step : definition.split) {
    step.kind = in.enumeration<SplitStep::Kind>(kSplitKinds, "split");
    step.pattern = in.string();
    step.behavior = in.enumeration<SplitStep::Behavior>(kSplitBehaviors, "split behavior");
    step.invert = in.enumeration<std::uint8_t>(2, "inversion") != 0;
  }
  if (in.left() != 0) fail_input("{}: tokenizer has {} bytes too many", where, in.left());
  return definition;
}

}  // namespace

std::string serialize_definition(const TokenizerDefinition& definition) {
  const std::string body = write_body(definition);
  Writer out;
  out.bytes = kMagic;
  out.byte(kVersion);
  out.varint(body.size());
  uLongf packed_bytes = compressBound(body.size());
  std::string packed(packed_bytes, '\0');
  const int status = compress2(reinterpret_cast<Bytef*>(packed.data()), &packed_bytes,
                               reinterpret_cast<const Bytef*>(body.data()), body.size(), Z_BEST_COMPRESSION);
  if (status != Z_OK) throw InternalError(fmt::format("zlib: compress2 returned {}", status));
  out.bytes.append(packed, 0, packed_bytes);
  return std::move(out.bytes);
}

Tokenizer Tokenizer::deserialize(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view whole(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!whole.starts_with(kMagic)) fail_input("{}: not a stored tokenizer: it must begin with '{}'", where, kMagic);
  Reader header(whole.substr(kMagic.size()), where);
  const std::uint8_t version = header.byte();
  if (version != kVersion)
    fail_input("{}: tokenizer has the unknown version {}; known is {}", where, version, kVersion);
  const std::uint64_t body_bytes = header.varint();
  const std::string_view packed = header.take(header.left());
  if (body_bytes > kMaxInflation * packed.size())
    fail_input("{}: tokenizer claims {} bytes packed into {}", where, body_bytes, packed.size());
  std::string body(static_cast<std::size_t>(body_bytes), '\0');
  uLongf unpacked_bytes = body.size();
  uLong used_bytes = packed.size();
  const int status = uncompress2(reinterpret_cast<Bytef*>(body.data()), &unpacked_bytes,
                                 reinterpret_cast<const Bytef*>(packed.data()), &used_bytes);
  if (status != Z_OK || unpacked_bytes != body.size() || used_bytes != packed.size())
    fail_input("{}: the tokenizer's compressed bytes are damaged (zlib {})", where, status);
  return Tokenizer(read_body(body, where), where);
}

}  // namespace scalebits
