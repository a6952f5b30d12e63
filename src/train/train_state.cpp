#include "train/train_state.h"

#include "checkpoint/read_checkpoint.h"
#include "checkpoint/write_hf_folder.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "core/hash.h"
#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLatest = "latest.json";
constexpr std::string_view kCheckpoint = "checkpoint-";
constexpr int kStepDigits = 8;

/// Of a tensor in host memory.
std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  return std::as_bytes(std::span(tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())));
}

Json to_json(const ModelSpec& spec, const TrainState& state) {
  const auto scheme = [&](const PrecisionScheme& s) { return s.empty() ? Json() : scalebits::to_json(spec, s); };
  return {{"step", state.step},
          {"scheme", scheme(state.scheme)},
          {"pending", scheme(state.pending)},
          {"install_step", state.install_step},
          {"gradient_scale", state.gradient_scale},
          {"smoothed_loss", state.smoothed_loss},
          {"lowest_smoothed_loss", state.lowest_smoothed_loss},
          {"data_hash", state.data_hash},
          {"config", state.config}};
}

TrainState state_from_json(const ModelSpec& spec, const Json& json, const std::string& where) {
  const auto scheme = [&](const char* key) {
    return json.at(key).is_null() ? PrecisionScheme() : scheme_from_json(spec, json.at(key), where);
  };
  TrainState state;
  state.step = json_value<std::uint64_t>(json, "step", where);
  state.install_step = json_value<std::uint64_t>(json, "install_step", where);
  state.gradient_scale = json_value<double>(json, "gradient_scale", where);
  state.smoothed_loss = json_value<double>(json, "smoothed_loss", where);
  state.lowest_smoothed_loss = json_value<double>(json, "lowest_smoothed_loss", where);
  state.data_hash = json_value<std::string>(json, "data_hash", where);
  state.config = json_value<Json>(json, "config", where);
  for (const char* key : {"scheme", "pending"})
    if (!json.contains(key)) fail_input("{}: key '{}' is missing", where, key);
  state.scheme = scheme("scheme");
  state.pending = scheme("pending");
  return state;
}

/// Of weights and AdamW's means: whoever goes on must go on with these.
std::string hash_of(const Parameters& parameters) {
  Hasher hasher;
  for (const Parameter& parameter : parameters.all())
    for (const at::Tensor* tensor : {&parameter.value, &parameter.mean, &parameter.square})
      hasher.update(bytes_of(tensor->to(at::kCPU)));
  return hasher.hex();
}

void write_state(const fs::path& path, const Parameters& parameters, const TrainState& state) {
  SafetensorsWriter writer;
  writer.set_metadata("state", to_json(parameters.spec(), state).dump());
  writer.set_metadata("hash", hash_of(parameters));
  std::vector<at::Tensor> host;  // copies, unless the parameters lie there
  std::vector<std::span<const std::byte>> payloads;
  for (const Parameter& parameter : parameters.all())
    for (const auto& [prefix, tensor] : {std::pair{"mean.", &parameter.mean}, {"square.", &parameter.square}}) {
      payloads.push_back(bytes_of(host.emplace_back(tensor->to(at::kCPU))));
      writer.add(prefix + parameter.name, "F32", tensor->sizes().vec(), payloads.back().size());
    }
  writer.write(path, payloads);
}

fs::path state_file_of(const fs::path& folder) { return folder.string() + ".state"; }

/// Of a run that lost its latest.json, or was killed before the first.
std::optional<std::uint64_t> newest_whole_step(const fs::path& run) {
  std::optional<std::uint64_t> newest;
  if (!fs::is_directory(run)) return newest;
  for (const auto& entry : fs::directory_iterator(run)) {
    const auto step = step_of_checkpoint(entry.path());
    if (!step || entry.path() != checkpoint_folder(run, *step)) continue;
    if (!is_whole_checkpoint(entry.path()))
      fail(ErrorKind::usage, "{}: has a checkpoint's name and is none; choose another folder", entry.path().string());
    newest = std::max(newest, step);
  }
  return newest;
}

LoadedRun load_checkpoint(const fs::path& folder) {
  LoadedRun loaded;
  loaded.checkpoint = read_checkpoint(folder, {.hash = false});
  loaded.state_file = state_file_of(folder);
  const auto file = SafetensorsFile::open(loaded.state_file);
  const auto found = file.metadata().find("state");
  if (found == file.metadata().end()) fail_input("{}: holds no state of a training run", loaded.state_file.string());
  loaded.state = state_from_json(loaded.checkpoint.spec, parse_json(found->second, loaded.state_file.string()),
                                 loaded.state_file.string());
  return loaded;
}

}  // namespace

void save_checkpoint(const fs::path& run, const Checkpoint& like, const Parameters& parameters,
                     const TrainState& state) {
  Checkpoint checkpoint = like;
  checkpoint.spec = parameters.spec();
  checkpoint.tensors = parameters.host_tensors();
  checkpoint.hash.clear();
  const fs::path folder = checkpoint_folder(run, state.step);
  write_state(state_file_of(folder), parameters, state);
  write_hf_folder(checkpoint, folder, DType::f32);
  write_file_atomically(run / kLatest,
                        Json{{"step", state.step}, {"checkpoint", folder.filename().string()}}.dump() + "\n");
}

std::optional<LoadedRun> load_latest(const fs::path& run) {
  const auto step = latest_step(run);
  if (!step) return std::nullopt;
  return load_checkpoint(checkpoint_folder(run, *step));
}

std::optional<LoadedRun> load_run(const fs::path& path) {
  const fs::path folder = path.filename().empty() ? path.parent_path() : path;  // "run/" and "run"
  return is_whole_checkpoint(folder) ? load_checkpoint(folder) : load_latest(folder);
}

fs::path checkpoint_folder(const fs::path& run, std::uint64_t step) {
  return run / fmt::format("{}{:0{}}", kCheckpoint, step, kStepDigits);
}

std::optional<std::uint64_t> step_of_checkpoint(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kCheckpoint)) return std::nullopt;
  std::uint64_t step = 0;
  const char *const digits = name.data() + kCheckpoint.size(), *const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(digits, end, step);
  if (error != std::errc() || rest - digits < kStepDigits) return std::nullopt;
  for (const std::string_view known : {"", ".state", ".partial", ".replaced", ".state.partial"})
    if (std::string_view(rest, static_cast<std::size_t>(end - rest)) == known) return step;
  return std::nullopt;
}

bool is_whole_checkpoint(const fs::path& folder) {
  return step_of_checkpoint(folder) && fs::is_directory(folder) && fs::exists(state_file_of(folder));
}

std::optional<std::uint64_t> latest_step(const fs::path& run) {
  if (!fs::exists(run / kLatest)) return newest_whole_step(run);
  const std::string where = (run / kLatest).string();
  const auto name = json_value<std::string>(read_json_file(run / kLatest), "checkpoint", where);
  const auto step = step_of_checkpoint(name);
  if (!step || checkpoint_folder(run, *step).filename() != name)
    fail_input("{}: wanted the name of a checkpoint such as checkpoint-00000100, found '{}'", where, name);
  return step;
}

void load_optimizer(const fs::path& state_file, Parameters& parameters) {
  const auto file = SafetensorsFile::open(state_file);
  for (Parameter& parameter : parameters.all())
    for (const auto& [prefix, tensor] : {std::pair{"mean.", &parameter.mean}, {"square.", &parameter.square}}) {
      const SafetensorsEntry& entry = file.entry(prefix + parameter.name);
      if (entry.dtype != "F32" || entry.shape != tensor->sizes().vec())
        fail_input("{}: tensor '{}': wanted f32 shaped as the model's, found {}", state_file.string(), entry.name,
                   entry.dtype);
      const at::Tensor host = tensor->to(at::kCPU);
      std::memcpy(host.data_ptr(), entry.bytes.data(), entry.bytes.size());
      tensor->copy_(host);
    }
  const auto saved = file.metadata().find("hash");
  if (saved != file.metadata().end() && saved->second != hash_of(parameters))
    fail_input("{}: is damaged, or the weights beside it are: they are not what was saved", state_file.string());
}

}  // namespace scalebits
