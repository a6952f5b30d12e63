// Tokens per second of a whole model: reading prompts, writing at several lengths of context, alone and in batches.
#pragma once

#include "kernels/attention.h"
#include "runtime/model.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace scalebits {

struct ModelBenchOptions {
  RuntimeOptions runtime;
  KvType kv = KvType::f16;
  std::vector<std::int64_t> prompts = {256, 512};
  std::vector<std::int64_t> contexts = {0, 4096};  // tokens read before writing starts
  std::vector<std::int64_t> batches = {4, 16};     // sequences written together, at context 0
  std::int64_t tokens = 64;                        // written each time
  int repeats = 3;
  bool prompts_asked = false, contexts_asked = false, tokens_asked = false;  // by the user: not to be cut
};

struct ModelTimes {
  std::string work;  // "load to first token", "prompt", "decode"
  std::int64_t tokens = 0, context = 0, batch = 1;
  std::vector<double> seconds;  // of all tokens of all sequences, one for each repeat
  Profile profile;              // of all repeats; empty unless the runtime's options ask for it
};

struct ModelBenchResult {
  std::uint64_t bytes_per_token = 0;  // of weights, read for each step of decoding
  std::string placement;              // of the layers, when a card has some
  std::vector<ModelTimes> times;
};

/// The options with lengths that the model's positions hold: where a longer one was not asked for, it is cut. Throws
/// Error(usage) naming the length and the positions where it was.
ModelBenchOptions cut_to_positions(const std::filesystem::path& path, ModelBenchOptions options);

/// `on_work` is told what is about to be measured. Lengths beyond what the model was made for are Errors (bad_input).
ModelBenchResult bench_model(const std::filesystem::path& path, const ModelBenchOptions& options,
                             const std::function<void(const std::string& work)>& on_work);

}  // namespace scalebits
