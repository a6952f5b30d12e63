// SentencePiece's tokenizer.model: a protocol buffer (ModelProto) of which few fields are needed.
#include "core/error.h"
#include "core/mapped_file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary_builder.h"

#include <bit>
#include <cstring>

namespace scalebits {
namespace {

/// Walks one protocol-buffer message, field by field.
class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {}

  /// Moves to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = take_varint();
    field_ = key >> 3;
    wire_type_ = static_cast<int>(key & 7);
    text_ = {};
    number_ = 0;
    switch (wire_type_) {
      case 0: number_ = take_varint(); break;
      case 1: text_ = take(8); break;
      case 2: text_ = take(take_varint()); break;
      case 5: text_ = take(4); break;
      default: fail_input("{}: not a SentencePiece model: wire type {} in field {}", where_, wire_type_, field_);
    }
    if (field_ == 0) fail_input("{}: not a SentencePiece model: field number 0", where_);
    return true;
  }
  std::uint64_t field() const { return field_; }
  std::string_view text() const { return want(2), text_; }
  std::int64_t integer() const { return want(0), static_cast<std::int64_t>(number_); }
  bool flag() const { return integer() != 0; }
  float real() const {
    want(5);
    std::uint32_t bits;
    std::memcpy(&bits, text_.data(), 4);
    return std::bit_cast<float>(bits);
  }

 private:
  void want(int wire_type) const {
    if (wire_type_ != wire_type)
      fail_input("{}: not a SentencePiece model: field {} has wire type {}, wanted {}", where_, field_, wire_type_,
                 wire_type);
  }
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size())
      fail_input("{}: SentencePiece model is cut short: wanted {} bytes more, found {}", where_, count, rest_.size());
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  std::uint64_t take_varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    fail_input("{}: not a SentencePiece model: a number is longer than ten bytes", where_);
  }

  std::string_view rest_;
  const std::string& where_;
  std::uint64_t field_ = 0, number_ = 0;
  int wire_type_ = 0;
  std::string_view text_;
};

struct Piece {
  std::string text;
  float score = 0;
  std::int64_t type = 1;
};

struct Settings {  // with the defaults of sentencepiece_model.proto
  std::int64_t model_type = 1, unk = 0, bos = 1, eos = 2;
  bool byte_fallback = false, space_is_suffix = false;
  bool space_prefix = true, collapse_spaces = true, escape_spaces = true;
  std::string character_map;
};

void read_trainer(ProtoReader in, Settings& settings) {
  while (in.next()) {
    switch (in.field()) {
      case 3: settings.model_type = in.integer(); break;
      case 24: settings.space_is_suffix = in.flag(); break;
      case 35: settings.byte_fallback = in.flag(); break;
      case 40: settings.unk = in.integer(); break;
      case 41: settings.bos = in.integer(); break;
      case 42: settings.eos = in.integer(); break;
      default: break;
    }
  }
}

void read_normalizer(ProtoReader in, Settings& settings) {
  while (in.next()) {
    switch (in.field()) {
      case 2: settings.character_map = in.text(); break;
      case 3: settings.space_prefix = in.flag(); break;
      case 4: settings.collapse_spaces = in.flag(); break;
      case 5: settings.escape_spaces = in.flag(); break;
      default: break;
    }
  }
}

Piece read_piece(ProtoReader in) {
  Piece piece;
  while (in.next()) {
    switch (in.field()) {
      case 1: piece.text = in.text(); break;
      case 2: piece.score = in.real(); break;
      case 3: piece.type = in.integer(); break;
      default: break;
    }
  }
  return piece;
}

TokenKind kind_of(const Piece& piece, std::size_t id, const std::string& where) {
  constexpr TokenKind kKinds[] = {TokenKind::normal,       TokenKind::unknown, TokenKind::control,
                                  TokenKind::user_defined, TokenKind::unused,  TokenKind::byte};
  if (piece.type < 1 || piece.type > 6)
    fail_input("{}: piece {} has the unknown type {}; known are 1 to 6", where, id, piece.type);
  return kKinds[piece.type - 1];
}

}  // namespace

TokenizerDefinition read_sentencepiece(const std::filesystem::path& path) {
  const std::string where = path.string();
  const auto file = MappedFile::open(path);
  std::vector<Piece> pieces;
  Settings settings;
  ProtoReader in({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, where);
  while (in.next()) {
    if (in.field() == 1) pieces.push_back(read_piece({in.text(), where}));
    if (in.field() == 2) read_trainer({in.text(), where}, settings);
    if (in.field() == 3) read_normalizer({in.text(), where}, settings);
  }
  if (pieces.empty()) fail_input("{}: not a SentencePiece model: it holds no pieces", where);
  if (settings.model_type != 1 && settings.model_type != 2)
    fail_input("{}: unknown SentencePiece model type {}; known are 1 (unigram), 2 (BPE)", where, settings.model_type);
  if (settings.space_is_suffix || !settings.escape_spaces)
    fail_input("{}: SentencePiece models with white space as a suffix or without escaping are not known", where);

  TokenizerDefinition definition;
  using Kind = NormalizeStep::Kind;
  definition.model =
      settings.model_type == 2 ? TokenizerDefinition::Model::scored_merges : TokenizerDefinition::Model::unigram;
  definition.byte_fallback = settings.byte_fallback;
  definition.fuse_unknown = true;
  definition.drops_leading_space = settings.space_prefix || settings.collapse_spaces;
  if (!settings.character_map.empty()) definition.normalize.push_back({Kind::charsmap, settings.character_map, ""});
  if (settings.collapse_spaces) definition.normalize.push_back({Kind::collapse_spaces});
  definition.normalize.push_back({Kind::replace, "▁", " "});
  if (settings.space_prefix) definition.normalize.push_back({Kind::prepend, "", " "});

  const auto special = [&](std::int64_t id) {
    return id >= 0 && id < static_cast<std::int64_t>(pieces.size()) ? static_cast<std::int32_t>(id) : -1;
  };
  definition.unknown = special(settings.unk);
  definition.bos = special(settings.bos);
  definition.eos = special(settings.eos);
  definition.adds_bos = definition.bos >= 0;
  VocabularyBuilder builder(std::move(definition), Spelling::sentencepiece, where);
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    const TokenKind kind = kind_of(pieces[id], id, where);
    builder.add_token(static_cast<std::int64_t>(id), pieces[id].text, kind, pieces[id].score);
    if ((kind == TokenKind::control || kind == TokenKind::unknown) && !pieces[id].text.empty())
      builder.add_added_token({.id = static_cast<std::int32_t>(id), .special = true}, pieces[id].text);
  }
  return builder.finish();
}

Tokenizer Tokenizer::from_sentencepiece(const std::filesystem::path& path) {
  return Tokenizer(read_sentencepiece(path), path.string());
}

}  // namespace scalebits
