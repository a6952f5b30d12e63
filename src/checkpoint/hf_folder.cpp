#include "checkpoint/hf_folder.h"

#include "checkpoint/finite_values.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_tensor_name.h"
#include "checkpoint/load_tokenizer.h"
#include "core/json.h"
#include "safetensors/safetensors.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <optional>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

/// Buffers that old exporters stored and no reader needs.
constexpr std::string_view kIgnoredSuffixes[] = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
                                                 ".rotary_emb.sin_cached", "decoder.version"};

bool is_ignored(std::string_view name) {
  return std::any_of(std::begin(kIgnoredSuffixes), std::end(kIgnoredSuffixes),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

std::optional<DType> dtype_from(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (name == name_of(dtype)) return dtype;
  return std::nullopt;
}

/// Where each tensor of the model lies.
struct Weights {
  std::string where;                                       // names the file that should list the tensors
  std::deque<std::pair<fs::path, SafetensorsFile>> files;  // a deque: entries are pointed at
  std::map<std::string, std::pair<std::size_t, const SafetensorsEntry*>> tensors;  // → number of the file, entry
};

void add_file(Weights& weights, const fs::path& path) {
  weights.files.emplace_back(path, SafetensorsFile::open(path));
  for (const SafetensorsEntry& entry : weights.files.back().second.entries()) {
    const auto [at, is_new] = weights.tensors.emplace(entry.name, std::pair(weights.files.size() - 1, &entry));
    if (!is_new)
      fail_input("{}: tensor '{}' is also in {}", path.string(), entry.name,
                 weights.files[at->second.first].first.string());
  }
}

Weights open_weights(const fs::path& folder) {
  Weights weights;
  const fs::path single = folder / "model.safetensors";
  const fs::path index_path = folder / "model.safetensors.index.json";
  if (fs::exists(single)) {
    weights.where = single.string();
    add_file(weights, single);
    return weights;
  }
  if (!fs::exists(index_path)) {
    const char* hint = fs::exists(folder / "pytorch_model.bin") || fs::exists(folder / "pytorch_model.bin.index.json")
                           ? " (pytorch_model.bin is a pickle and is not read: save the model as safetensors)"
                           : "";
    fail_input("{}: neither model.safetensors nor model.safetensors.index.json is there{}", folder.string(), hint);
  }
  weights.where = index_path.string();
  const Json map = json_value<Json>(read_json_file(index_path), "weight_map", weights.where);
  if (!map.is_object()) fail_input("{}: weight_map must be an object, found {}", weights.where, map.type_name());
  std::map<std::string, std::string> shard_of;
  std::vector<std::string> shards;
  for (const auto& [tensor, shard] : map.items()) {
    if (!shard.is_string()) fail_input("{}: the shard of '{}' must be a file name", weights.where, tensor);
    const auto name = shard.get<std::string>();
    // A path would reach outside the folder that was named.
    if (fs::path(name).filename() != name || name == "." || name == "..")
      fail_input("{}: the shard of '{}' must be a plain file name, found '{}'", weights.where, tensor, name);
    shard_of[tensor] = name;
    shards.push_back(name);
  }
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  for (const std::string& shard : shards) add_file(weights, folder / shard);
  for (const auto& [tensor, place] : weights.tensors) {
    const auto found = shard_of.find(tensor);
    const fs::path& file = weights.files[place.first].first;
    if (found == shard_of.end())
      fail_input("{}: tensor '{}' is not listed in {}", file.string(), tensor, weights.where);
    if (file.filename() != found->second)
      fail_input("{}: tensor '{}' should be in {}, found in {}", weights.where, tensor, found->second, file.string());
  }
  for (const auto& [tensor, shard] : shard_of)
    if (!weights.tensors.contains(tensor))
      fail_input("{}: tensor '{}' is missing, {} lists it", (folder / shard).string(), tensor, weights.where);
  return weights;
}

NamedTensor take(Weights& weights, const TensorShape& wanted) {
  auto found = weights.tensors.find(wanted.name);
  // A model saved without its head's class lacks the first part of the names, as older OPT checkpoints do.
  if (constexpr std::string_view kBase = "model."; found == weights.tensors.end() && wanted.name.starts_with(kBase))
    found = weights.tensors.find(wanted.name.substr(kBase.size()));
  if (found == weights.tensors.end())
    fail_input("{}: tensor '{}' of shape [{}] is missing", weights.where, wanted.name, fmt::join(wanted.shape, ", "));
  const auto& [file, entry] = found->second;
  const std::string where = fmt::format("{}: tensor '{}'", weights.files[file].first.string(), wanted.name);
  const auto dtype = dtype_from(entry->dtype);
  if (!dtype) fail_input("{}: wanted F32, F16 or BF16, found {}", where, entry->dtype);
  if (entry->shape != wanted.shape)
    fail_input("{}: wanted shape [{}] from config.json, found [{}]", where, fmt::join(wanted.shape, ", "),
               fmt::join(entry->shape, ", "));
  NamedTensor named{where, {*dtype, entry->shape, entry->bytes, weights.files[file].second.file()}};
  weights.tensors.erase(found);
  return named;
}

/// A head stored beside a tied embedding is a copy and is dropped; one that differs is not the model the config tells
/// of.
void drop_tied_head(Weights& weights, const HostTensor& embedding, const std::string& embedding_name) {
  const auto found = weights.tensors.find(std::string(kHeadName));
  if (found == weights.tensors.end()) return;
  const auto stored = found->second.second->bytes;
  if (stored.size() != embedding.bytes.size() || std::memcmp(stored.data(), embedding.bytes.data(), stored.size()) != 0)
    fail_input("{}: tensor '{}' differs from '{}', but config.json ties them (tie_word_embeddings)", weights.where,
               kHeadName, embedding_name);
  weights.tensors.erase(found);
}

std::string text_of(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

/// The file of its own wins, as in transformers; of several named templates it is the one called "default".
std::string read_chat_template(const fs::path& folder) {
  if (const fs::path path = folder / "chat_template.jinja"; fs::exists(path)) return text_of(path);
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) continue;
    const Json json = read_json_file(path);
    const auto found = json_value_or<Json>(json, "chat_template", Json(), path.string());
    if (found.is_string()) return found.get<std::string>();
    if (found.is_array())
      for (const Json& named : found)
        if (json_value<std::string>(named, "name", path.string()) == "default")
          return json_value<std::string>(named, "template", path.string());
  }
  return "";
}

}  // namespace

HfFolder read_hf_folder(const fs::path& folder, bool check_values) {
  HfFolder result;
  Checkpoint& checkpoint = result.checkpoint;
  checkpoint.source = folder.string();
  const fs::path config_path = folder / "config.json";
  const fs::path generation_path = folder / "generation_config.json";
  const Json generation = fs::exists(generation_path) ? read_json_file(generation_path) : Json();
  checkpoint.spec = spec_from_hf_config(read_json_file(config_path), generation, config_path.string());

  Weights weights = open_weights(folder);
  if (checkpoint.spec.layers > static_cast<std::int64_t>(weights.tensors.size()))
    fail_input("{}: {} layers, {} holds only {} tensors", config_path.string(), checkpoint.spec.layers, weights.where,
               weights.tensors.size());
  std::vector<NamedTensor> taken;
  for (const TensorShape& wanted : required_tensors(checkpoint.spec)) {
    taken.push_back(take(weights, {hf_tensor_name(checkpoint.spec.family, wanted.name), wanted.shape}));
    checkpoint.tensors[wanted.name] = taken.back().tensor;
  }
  if (checkpoint.spec.tied_head)
    drop_tied_head(weights, checkpoint.tensor(kEmbeddingName),
                   hf_tensor_name(checkpoint.spec.family, std::string(kEmbeddingName)));
  for (const auto& [name, place] : weights.tensors)
    if (!is_ignored(name))
      fail_input("{}: tensor '{}' is unknown to a {} model", weights.files[place.first].first.string(), name,
                 name_of(checkpoint.spec.family));
  if (check_values) check_finite(taken);

  checkpoint.tokenizer = load_folder_tokenizer(folder);
  checkpoint.chat_template = read_chat_template(folder);
  result.files.push_back(config_path);
  for (const auto& file : weights.files) result.files.push_back(file.first);
  for (const std::string_view name : kHfSideFiles)
    if (fs::exists(folder / name)) result.files.push_back(folder / name);
  std::sort(result.files.begin(), result.files.end());
  return result;
}

}  // namespace scalebits
