#include "checkpoint/load_tokenizer.h"

#include "core/error.h"
#include "tokenizer/tokenizer.h"

namespace scalebits {
namespace {

/// Files of old converters write 2^32 - 1 for "none".
std::int32_t token_id(const GgufFile& file, std::string_view key) {
  const std::int64_t id = file.integer(key).value_or(-1);
  if (id == 0xffffffff) return -1;
  if (id < -1 || id > INT32_MAX) fail_input("{}: key '{}' must be a token id, found {}", file.path().string(), key, id);
  return static_cast<std::int32_t>(id);
}

}  // namespace

std::shared_ptr<const Tokenizer> load_folder_tokenizer(const std::filesystem::path& folder) {
  if (const auto own = folder / "tokenizer.scalebits"; std::filesystem::exists(own)) {
    const auto file = MappedFile::open(own);
    return std::make_shared<Tokenizer>(Tokenizer::deserialize(file->bytes(), own.string()));
  }
  auto tokenizer = Tokenizer::from_folder(folder);
  return tokenizer ? std::make_shared<Tokenizer>(std::move(*tokenizer)) : nullptr;
}

std::shared_ptr<const Tokenizer> load_gguf_tokenizer(const GgufFile& file) {
  const auto model = file.text("tokenizer.ggml.model");
  if (!model || *model == "none") return nullptr;
  GgufVocabulary vocabulary;
  vocabulary.model = *model;
  vocabulary.pre = file.text("tokenizer.ggml.pre").value_or("");
  vocabulary.tokens = file.texts("tokenizer.ggml.tokens").value_or(std::vector<std::string>());
  vocabulary.scores = file.floats("tokenizer.ggml.scores").value_or(std::vector<float>());
  vocabulary.types = file.integers("tokenizer.ggml.token_type").value_or(std::vector<std::int32_t>());
  vocabulary.merges = file.texts("tokenizer.ggml.merges").value_or(std::vector<std::string>());
  vocabulary.bos = token_id(file, "tokenizer.ggml.bos_token_id");
  vocabulary.eos = token_id(file, "tokenizer.ggml.eos_token_id");
  vocabulary.unk = token_id(file, "tokenizer.ggml.unknown_token_id");
  vocabulary.add_bos = file.flag("tokenizer.ggml.add_bos_token");
  vocabulary.add_eos = file.flag("tokenizer.ggml.add_eos_token");
  vocabulary.add_space_prefix = file.flag("tokenizer.ggml.add_space_prefix");
  return std::make_shared<Tokenizer>(Tokenizer::from_gguf(vocabulary, file.path().string()));
}

}  // namespace scalebits
