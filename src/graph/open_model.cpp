#include "graph/open_model.h"

#include "artifact/artifact.h"
#include "checkpoint/read_checkpoint.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "graph/artifact_weights.h"
#include "tokenizer/tokenizer.h"

#include <cstring>

namespace scalebits {
namespace {

bool is_gguf(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return file->bytes().size() >= 4 && std::memcmp(file->bytes().data(), "GGUF", 4) == 0;
}

}  // namespace

const Tokenizer& OpenedModel::require_tokenizer() const {
  if (!tokenizer) fail_input("{}: has no tokenizer, so text cannot be turned into tokens", path);
  return *tokenizer;
}

OpenedModel open_model(const std::filesystem::path& path) {
  OpenedModel model;
  model.path = path.string();
  if (std::filesystem::is_directory(path) || is_gguf(path)) {
    const Checkpoint checkpoint = read_checkpoint(path, {.hash = false});
    model.spec = checkpoint.spec;
    model.weights = std::make_unique<CheckpointWeights>(checkpoint);
    model.tokenizer = checkpoint.tokenizer;
    model.chat_template = checkpoint.chat_template;
  } else {
    const auto artifact = std::make_shared<const Artifact>(Artifact::open(path));
    model.spec = artifact->spec();
    model.weights = std::make_unique<ArtifactWeights>(artifact);
    model.tokenizer = artifact->tokenizer();
    model.chat_template = artifact->chat_template();
  }
  return model;
}

}  // namespace scalebits
