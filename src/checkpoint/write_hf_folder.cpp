#include "checkpoint/write_hf_folder.h"

#include "checkpoint/finite_values.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/hf_tensor_name.h"
#include "core/atomic_file.h"
#include "core/json_text.h"
#include "safetensors/safetensors_writer.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>
#include <regex>
#include <vector>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

constexpr const char *kConfig = "config.json", *kConfigBegun = "config.json.partial";

/// A key of config.json by which a folder is known as written here, and so as ours to replace.
constexpr const char* kMark = "scalebits_source";

constexpr std::size_t kChunkElements = 1 << 16;

/// Whether a file of a written folder may be called so.
bool is_written_name(std::string name) {
  if (constexpr std::string_view kBegun = ".partial"; name.ends_with(kBegun)) name.resize(name.size() - kBegun.size());
  static const std::regex weights("model(-[0-9]{5}-of-[0-9]{5})?\\.safetensors|model\\.safetensors\\.index\\.json");
  if (name == kConfig || std::regex_match(name, weights)) return true;
  return std::find(std::begin(kHfSideFiles), std::end(kHfSideFiles), name) != std::end(kHfSideFiles);
}

void refuse_foreign(const fs::path& folder) {
  if (!fs::exists(folder)) return;
  if (!fs::is_directory(folder)) fail_input("{}: is not a folder", folder.string());
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.is_directory() || !is_written_name(entry.path().filename().string()))
      fail_input("{}: was not written by scalebits, and would be lost; remove it or choose another folder",
                 entry.path().string());
  if (!is_written_hf_folder(folder))
    fail_input("{}: is not empty and was not written by scalebits; remove it or choose another folder",
               folder.string());
}

/// Of one output, side by side.
struct Places {
  fs::path final, partial, replaced;
};

Places places_of(const fs::path& folder) {
  // "out/" names the same folder as "out", but "out/.partial" would lie inside it.
  const fs::path name = folder.has_filename() ? folder : folder.parent_path();
  Places places{name, name, name};
  places.partial += ".partial";
  places.replaced += ".replaced";
  for (const fs::path& path : {places.final, places.partial, places.replaced}) refuse_foreign(path);
  return places;
}

void append_tensor(const HostTensor& tensor, DType dtype, const std::string& where, AtomicFile& file) {
  if (tensor.dtype == dtype) return file.write(tensor.bytes);
  std::vector<float> values;
  std::vector<std::uint16_t> halves;
  const auto elements = static_cast<std::size_t>(tensor.elements());
  for (std::size_t first = 0; first < elements; first += kChunkElements) {
    values.resize(std::min(kChunkElements, elements - first));
    tensor.copy_f32(static_cast<std::int64_t>(first), values);
    auto bytes = std::as_bytes(std::span(values));
    if (dtype != DType::f32) {
      halves.resize(values.size());
      std::transform(values.begin(), values.end(), halves.begin(), dtype == DType::f16 ? f32_to_f16 : f32_to_bf16);
      bytes = std::as_bytes(std::span(halves));
      // Rounding may leave the range of the smaller type.
      check_finite(bytes, dtype, static_cast<std::int64_t>(first), tensor.shape,
                   fmt::format("{} as {}", where, name_of(dtype)));
    }
    file.write(bytes);
  }
}

/// Tensors in model order, cut where a shard would outgrow `shard_bytes`.
std::vector<std::vector<TensorShape>> cut_into_shards(const ModelSpec& spec, DType dtype, std::uint64_t shard_bytes) {
  std::vector<std::vector<TensorShape>> shards(1);
  std::uint64_t used = 0;
  for (TensorShape& tensor : required_tensors(spec)) {
    std::uint64_t size = size_bytes(dtype);
    for (const std::int64_t extent : tensor.shape) size *= static_cast<std::uint64_t>(extent);
    if (used != 0 && used + size > shard_bytes) {
      shards.emplace_back();
      used = 0;
    }
    used += size;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

void write_weights(const Checkpoint& checkpoint, const fs::path& folder, DType dtype, std::uint64_t shard_bytes) {
  const auto shards = cut_into_shards(checkpoint.spec, dtype, shard_bytes);
  Json weight_map = Json::object();
  std::uint64_t total_bytes = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? "model.safetensors"
                                                : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    SafetensorsWriter writer;
    writer.set_metadata("format", "pt");
    for (const TensorShape& tensor : shards[i]) {
      const auto size = static_cast<std::uint64_t>(checkpoint.tensor(tensor.name).elements()) * size_bytes(dtype);
      const std::string stored = hf_tensor_name(checkpoint.spec.family, tensor.name);
      writer.add(stored, name_of(dtype), tensor.shape, size);
      weight_map[stored] = name;
      total_bytes += size;
    }
    writer.write(folder / name, [&](std::size_t entry, AtomicFile& file) {
      const std::string& tensor = shards[i][entry].name;
      append_tensor(checkpoint.tensor(tensor), dtype, fmt::format("{}: tensor '{}'", checkpoint.source, tensor), file);
    });
  }
  if (shards.size() > 1)
    write_file_atomically(folder / "model.safetensors.index.json",
                          Json{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}}.dump(2) + "\n");
}

/// Our own form, and for others Hugging Face's where the source left none and has a like of it.
void write_tokenizer(const Tokenizer& tokenizer, const fs::path& folder) {
  write_file_atomically(folder / "tokenizer.scalebits", tokenizer.serialize());
  for (const std::string_view name : {"tokenizer.json", "vocab.json", "tokenizer.model"})
    if (fs::exists(folder / name)) return;
  const std::string text = tokenizer.to_tokenizer_json();
  if (text.empty()) return;
  write_file_atomically(folder / "tokenizer.json", text);
  if (fs::exists(folder / "tokenizer_config.json")) return;
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  if (tokenizer.bos()) config["bos_token"] = tokenizer.piece(*tokenizer.bos());
  if (tokenizer.eos()) config["eos_token"] = tokenizer.piece(*tokenizer.eos());
  write_file_atomically(folder / "tokenizer_config.json", config.dump(2) + "\n");
}

void write_side_files(const Checkpoint& checkpoint, const fs::path& folder) {
  // Templates inside tokenizer_config.json stay as they are: chat_template.jinja wins over them everywhere.
  if (fs::is_directory(checkpoint.source))
    for (const std::string_view name : kHfSideFiles)
      if (const fs::path from = fs::path(checkpoint.source) / name; fs::exists(from))
        fs::copy_file(from, folder / name);
  if (!fs::exists(folder / "generation_config.json")) {
    Json generation = Json::object();
    if (!checkpoint.spec.eos_ids.empty()) generation["eos_token_id"] = checkpoint.spec.eos_ids;
    if (checkpoint.tokenizer && checkpoint.tokenizer->bos()) generation["bos_token_id"] = *checkpoint.tokenizer->bos();
    write_file_atomically(folder / "generation_config.json", generation.dump(2) + "\n");
  }
  if (checkpoint.tokenizer) write_tokenizer(*checkpoint.tokenizer, folder);
  if (!checkpoint.chat_template.empty())
    write_file_atomically(folder / "chat_template.jinja", checkpoint.chat_template);
}

}  // namespace

bool is_written_hf_folder(const fs::path& folder) {
  const auto all = [&](const auto& holds) {
    return std::all_of(fs::directory_iterator(folder), fs::directory_iterator(), holds);
  };
  const fs::path config = folder / kConfig;
  if (!fs::exists(config))
    return all([](const fs::directory_entry& entry) { return entry.path().filename() == kConfigBegun; });
  return read_json_file(config).contains(kMark) && all([](const fs::directory_entry& entry) {
           return !entry.is_directory() && is_written_name(entry.path().filename().string());
         });
}

void remove_written_hf_folder(const fs::path& folder) {
  if (!fs::exists(folder)) return;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().filename() != kConfig) fs::remove_all(entry.path());
  fs::remove_all(folder);
}

void require_hf_output(const fs::path& folder) {
  const Places places = places_of(folder);
  std::error_code error;
  if (fs::create_directories(places.partial, error)) fs::remove(places.partial, error);
  if (error) fail_input("{}: cannot write: {}", places.final.string(), error.message());
}

void write_hf_folder(const Checkpoint& checkpoint, const fs::path& folder, DType dtype, std::uint64_t shard_bytes) {
  const auto [final_path, partial, replaced] = places_of(folder);
  Json config = hf_config_from_spec(checkpoint.spec, dtype, checkpoint.source);
  config[kMark] = {{"source", fs::path(checkpoint.source).filename().string()}, {"hash", checkpoint.hash}};
  if (checkpoint.tokenizer && checkpoint.tokenizer->bos()) config["bos_token_id"] = *checkpoint.tokenizer->bos();
  try {
    remove_written_hf_folder(partial);
    fs::create_directories(partial);
    // First, because it marks the folder as ours.
    write_file_atomically(partial / kConfig, json_text(config, 2) + "\n");
    write_weights(checkpoint, partial, dtype, shard_bytes);
    write_side_files(checkpoint, partial);
    remove_written_hf_folder(replaced);
    if (fs::exists(final_path)) fs::rename(final_path, replaced);
    fs::rename(partial, final_path);
    remove_written_hf_folder(replaced);
  } catch (const fs::filesystem_error& error) {
    std::error_code ignored;
    fs::remove_all(partial, ignored);
    fail_input("{}: cannot write: {}", final_path.string(), error.what());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(partial, ignored);
    throw;
  }
}

}  // namespace scalebits
