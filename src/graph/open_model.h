// Whatever a model is stored as, ready to be run: a Hugging Face folder, a GGUF file or an artifact of ours.
#pragma once

#include "graph/weight_source.h"
#include "model/model_spec.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace scalebits {

class Tokenizer;

struct OpenedModel {
  ModelSpec spec;
  std::unique_ptr<WeightSource> weights;       // of an artifact: dequantised from the packed file at each use
  std::shared_ptr<const Tokenizer> tokenizer;  // null when the source carries none
  std::string chat_template;
  std::string path;

  /// Throws Error(bad_input) naming the path when there is none.
  const Tokenizer& require_tokenizer() const;
};

/// Throws Error(bad_input) naming the path and what is wrong with it.
OpenedModel open_model(const std::filesystem::path& path);

}  // namespace scalebits
