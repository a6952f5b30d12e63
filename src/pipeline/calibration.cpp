#include "pipeline/calibration.h"

#include "core/hash.h"
#include "core/mapped_file.h"
#include "core/random.h"
#include "graph/generate.h"
#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"
#include "tokenizer/tokenizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <ranges>
#include <span>

namespace scalebits {
namespace {

/// Gradient batches that the model writes for itself; later passes read the first ones again.
constexpr std::int64_t kOwnBatches = 6;

void require_resolved(const Recipe& recipe) {
  if (recipe.window_length < 2) throw InternalError("the length of calibration windows must be settled by now");
}

std::span<const std::byte> bytes_of(const at::Tensor& ids) {
  return std::as_bytes(std::span(ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel())));
}

constexpr const char *kWindows = "windows", *kMadeWith = "made_with";

void keep_text(const std::filesystem::path& path, const at::Tensor& windows, const std::string& made_with) {
  SafetensorsWriter writer;
  writer.set_metadata(kMadeWith, made_with);
  const std::vector<std::span<const std::byte>> payload = {bytes_of(windows)};
  writer.add(kWindows, "I64", windows.sizes().vec(), payload[0].size());
  writer.write_sealed(path, payload);
}

/// Undefined when there is none, or one that was made with something else.
at::Tensor kept_text(const std::filesystem::path& path, const std::string& made_with) {
  if (!std::filesystem::exists(path)) return {};
  const auto file = SafetensorsFile::open_sealed(path);
  const auto made = file.metadata().find(kMadeWith);
  if (made == file.metadata().end() || made->second != made_with) return {};
  const SafetensorsEntry& entry = file.entry(kWindows);
  if (entry.dtype != "I64" || entry.shape.size() != 2)
    fail_input("{}: tensor {}: wanted windows of I64, found {}", path.string(), entry.name, entry.dtype);
  at::Tensor windows = at::empty(entry.shape, at::kLong);
  std::memcpy(windows.data_ptr<std::int64_t>(), entry.bytes.data(), entry.bytes.size());
  return windows;
}

/// `windows` [n, length]: the first validation_windows of a seeded shuffle are held out.
CalibrationSet split_windows(const at::Tensor& windows, const Recipe& recipe) {
  const std::int64_t count = windows.size(0);
  std::vector<std::int64_t> shuffled(static_cast<std::size_t>(count));
  std::iota(shuffled.begin(), shuffled.end(), 0);
  const CounterRng rng(recipe.seed, 0x63616c69);
  for (std::size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[rng.below(i, i)]);
  const at::Tensor rows = at::tensor(shuffled, at::TensorOptions().dtype(at::kLong));
  const at::Tensor mixed = windows.index_select(0, rows);
  CalibrationSet set;
  set.validation_windows = mixed.narrow(0, 0, recipe.validation_windows).contiguous();
  set.gradient_windows = mixed.narrow(0, recipe.validation_windows, count - recipe.validation_windows).contiguous();
  Hasher hasher;
  hasher.update(bytes_of(mixed));
  hasher.update(std::to_string(recipe.validation_windows));
  set.hash = hasher.hex();
  return set;
}

}  // namespace

CalibrationSet calibration_from_text(const Checkpoint& checkpoint, const std::vector<std::filesystem::path>& files,
                                     const Recipe& recipe) {
  require_resolved(recipe);
  if (!checkpoint.tokenizer)
    fail_input("{}: has no tokenizer, so calibration text cannot be read; leave --calibration out", checkpoint.source);
  std::vector<std::int64_t> ids;
  for (const auto& path : files) {
    const auto file = MappedFile::open(path);
    const auto encoded = checkpoint.tokenizer->encode(file->text(), {.parse_special = false});
    for (const std::int32_t id : encoded) {
      if (id < 0 || id >= checkpoint.spec.vocab)
        fail_input("{}: token {} is outside the model's vocabulary of {}", path.string(), id, checkpoint.spec.vocab);
      ids.push_back(id);
    }
  }
  const auto length = static_cast<std::size_t>(recipe.window_length);
  const std::size_t found = ids.size() / length;
  const auto wanted = static_cast<std::size_t>(recipe.validation_windows + recipe.windows_per_gradient);
  if (found < wanted)
    fail_input("{}: calibration text of at least {} windows of {} tokens is wanted, found {}",
               fmt::join(files | std::views::transform([](const auto& path) { return path.string(); }), ", "), wanted,
               length, found);
  ids.resize(found * length);
  const at::Tensor windows = at::tensor(ids, at::TensorOptions().dtype(at::kLong))
                                 .view({static_cast<std::int64_t>(found), recipe.window_length});
  return split_windows(windows, recipe);
}

CalibrationSet calibration_from_model(const Checkpoint& checkpoint, const Recipe& recipe, const ProgressSink& progress,
                                      JobProcesses& processes, double seconds, const SearchDevice& device,
                                      const std::filesystem::path& kept, bool resume) {
  require_resolved(recipe);
  ProcessGroup& group = processes.all();
  const std::int64_t passes = recipe.descent_steps + recipe.swap_steps + 1;
  SelfTextOptions options{
      .windows = recipe.validation_windows + std::min<std::int64_t>(passes, kOwnBatches) * recipe.windows_per_gradient,
      .length = recipe.window_length,
      .seed = recipe.seed,
      .compute = recipe.compute,
      .seconds = seconds,
      .least_windows = recipe.validation_windows + recipe.windows_per_gradient};
  if (checkpoint.tokenizer) options.start_token = checkpoint.tokenizer->bos();
  at::Tensor windows;
  const std::string made_with =
      Json{{"checkpoint", checkpoint.hash}, {"recipe", to_json(recipe)}, {"windows", options.windows}}.dump();
  if (group.is_first() && resume) windows = kept_text(kept, made_with);
  if (group.is_first() && !windows.defined()) {
    const TextEngine engine = make_text_engine(device, checkpoint, recipe, processes);
    options.place = engine.place;
    options.windows_at_once = engine.windows_at_once;
    windows = sample_own_text(checkpoint.spec, *engine.weights, options, progress).contiguous();
    keep_text(kept, windows, made_with);
  }
  const auto count =
      static_cast<std::int64_t>(group.from_first(windows.defined() ? static_cast<double>(windows.size(0)) : 0));
  if (!windows.defined()) windows = at::empty({count, options.length}, at::kLong);
  group.broadcast(windows);
  return split_windows(windows, recipe);
}

}  // namespace scalebits
