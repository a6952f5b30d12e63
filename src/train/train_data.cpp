#include "train/train_data.h"

#include "core/error.h"
#include "core/hash.h"
#include "core/mapped_file.h"
#include "core/random.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

namespace scalebits {
namespace {

/// Fisher–Yates with draws of (seed, stream).
void shuffle(std::vector<std::int64_t>& numbers, std::uint64_t seed, std::uint64_t stream) {
  const CounterRng rng(seed, stream);
  for (std::size_t i = numbers.size(); i > 1; --i) std::swap(numbers[i - 1], numbers[rng.below(i, i)]);
}

constexpr std::uint64_t kHeldOutStream = 0x68656c64, kOrderStream = 0x6f72646500000000ull;

at::Tensor gather(const std::vector<std::int64_t>& ids, std::span<const std::int64_t> windows, std::int64_t length) {
  at::Tensor rows = at::empty({static_cast<std::int64_t>(windows.size()), length}, at::kLong);
  auto* out = rows.data_ptr<std::int64_t>();
  for (const std::int64_t window : windows) {
    std::memcpy(out, ids.data() + window * length, static_cast<std::size_t>(length) * sizeof(std::int64_t));
    out += length;
  }
  return rows;
}

}  // namespace

TrainData::TrainData(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer, std::int64_t vocab,
                     const TrainDataOptions& options)
    : options_(options) {
  for (const auto& path : files) {
    const auto file = MappedFile::open(path);
    std::vector<std::int32_t> encoded = tokenizer.encode(file->text(), {.parse_special = false});
    if (tokenizer.eos()) encoded.push_back(*tokenizer.eos());
    for (const std::int32_t id : encoded) {
      if (id < 0 || id >= vocab)
        fail_input("{}: token {} is outside the model's vocabulary of {}", path.string(), id, vocab);
      ids_.push_back(id);
    }
  }
  const auto found = static_cast<std::int64_t>(ids_.size()) / options_.window_length;
  const std::int64_t wanted = options_.validation_windows + options_.batch_windows;
  if (found < wanted)
    fail_input("training text: wanted at least {} windows of {} tokens ({} to validate, {} a batch), found {}", wanted,
               options_.window_length, options_.validation_windows, options_.batch_windows, found);
  windows_.resize(static_cast<std::size_t>(found));
  std::iota(windows_.begin(), windows_.end(), 0);
  shuffle(windows_, 0, kHeldOutStream);
  const auto held_out = windows_.end() - options_.validation_windows;
  validation_ = gather(ids_, std::span(held_out, windows_.end()), options_.window_length);
  windows_.erase(held_out, windows_.end());
  std::sort(windows_.begin(), windows_.end());
  Hasher hasher;
  hasher.update(std::as_bytes(std::span(ids_)));
  hasher.update(fmt::format("{} {}", options_.window_length, options_.validation_windows));
  hash_ = hasher.hex();
}

at::Tensor TrainData::batch(std::uint64_t step) const {
  const auto batches = static_cast<std::uint64_t>(training_windows() / options_.batch_windows);
  if (order_.empty() || epoch_ != step / batches) {
    epoch_ = step / batches;
    order_ = windows_;
    shuffle(order_, options_.seed, kOrderStream + epoch_);
  }
  const auto first = static_cast<std::size_t>(step % batches) * static_cast<std::size_t>(options_.batch_windows);
  return gather(ids_, std::span(std::as_const(order_)).subspan(first, static_cast<std::size_t>(options_.batch_windows)),
                options_.window_length);
}

}  // namespace scalebits
