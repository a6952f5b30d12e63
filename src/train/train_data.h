// Tokenised text in windows: which ones a step sees is a pure function of the seed and the step, so that a run that
// goes on after an interruption sees what it would have seen.
#pragma once

#include "tokenizer/tokenizer.h"
#include "train/train_data_options.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace scalebits {

class TrainData {
 public:
  /// Concatenates the files' tokens, an end token behind each file where the tokenizer has one, and cuts them into
  /// windows, dropping what is left over. Throws Error(bad_input) naming the file that cannot be read, a token outside
  /// `vocab`, or how many windows were wanted and found.
  TrainData(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer, std::int64_t vocab,
            const TrainDataOptions& options);

  /// [batch_windows, window_length] int64: no window twice within an epoch.
  at::Tensor batch(std::uint64_t step) const;
  /// [validation_windows, window_length] int64.
  const at::Tensor& validation() const { return validation_; }
  std::int64_t training_windows() const { return static_cast<std::int64_t>(windows_.size()); }
  /// Of all tokens and how they are cut.
  const std::string& hash() const { return hash_; }

 private:
  TrainDataOptions options_;
  std::vector<std::int64_t> ids_;
  std::vector<std::int64_t> windows_;  // numbers of those that are trained on
  at::Tensor validation_;
  mutable std::vector<std::int64_t> order_;  // of windows_ in the epoch that was asked for last
  mutable std::uint64_t epoch_ = 0;
  std::string hash_;
};

}  // namespace scalebits
