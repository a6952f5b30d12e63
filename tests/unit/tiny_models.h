// Tiny random models for the tests of the checkpoint room, written as Hugging Face folders and as GGUF files by code
// that shares nothing with the readers. Values are multiples of 1/64 in [-1, 1], exact in F32, F16 and BF16.
#pragma once

#include "core/random.h"
#include "model/checkpoint.h"
#include "safetensors/safetensors_writer.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace scalebits::testing_models {

/// A folder of its own for each test, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "scalebits_test_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::create_directories(path.parent_path());
  std::filesystem::remove(path);  // writing over a file makes ext4 flush it to disk
  std::ofstream(path, std::ios::binary) << content;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct TinyModel {
  ModelSpec spec;
  std::map<std::string, std::vector<float>> weights;  // keys and shapes of required_tensors(spec)
};

inline ModelSpec tiny_spec(Family family) {
  ModelSpec spec;
  spec.family = family;
  spec.layers = 2, spec.hidden = 32, spec.intermediate = 64, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 8;
  spec.vocab = 48, spec.max_positions = 64, spec.eos_ids = {2};
  if (family == Family::mistral) spec.sliding_window = 16;
  spec.qkv_bias = family == Family::qwen2;
  if (family == Family::qwen3) spec.qk_norm = true, spec.head_dim = 16;
  if (family == Family::opt) {
    spec.kv_heads = spec.heads, spec.norm = NormKind::layer, spec.mlp = MlpKind::relu;
    spec.positions = PositionKind::learned, spec.position_offset = 2;
    spec.qkv_bias = spec.o_bias = spec.mlp_bias = true;
  }
  return spec;
}

inline TinyModel random_model(const ModelSpec& spec, std::uint64_t seed) {
  TinyModel model{spec, {}};
  std::uint64_t stream = 0;
  for (const TensorShape& tensor : required_tensors(spec)) {
    const CounterRng random(seed, stream++);
    std::size_t count = 1;
    for (const std::int64_t extent : tensor.shape) count *= static_cast<std::size_t>(extent);
    auto& values = model.weights[tensor.name];
    for (std::size_t i = 0; i < count; ++i) values.push_back((static_cast<float>(random.below(i, 129)) - 64) / 64);
  }
  return model;
}

/// Random weights, small enough that the model does not saturate.
inline Checkpoint tiny_checkpoint(const ModelSpec& spec, std::uint64_t seed = 1) {
  const TinyModel model = random_model(spec, seed);
  Checkpoint checkpoint;
  checkpoint.spec = spec;
  checkpoint.source = "tiny";
  for (const TensorShape& tensor : required_tensors(spec)) {
    std::vector<float> values = model.weights.at(tensor.name);
    for (float& value : values) value *= tensor.shape.size() == 1 ? 1.0f : 0.25f;
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::move(values));
  }
  return checkpoint;
}

inline std::string bytes_as(const std::vector<float>& values, DType dtype) {
  std::string bytes;
  for (const float value : values) {
    const std::uint16_t half = dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
    if (dtype == DType::f32)
      bytes.append(reinterpret_cast<const char*>(&value), 4);
    else
      bytes.append(reinterpret_cast<const char*>(&half), 2);
  }
  return bytes;
}

/// Written out key by key, not with the writer under test.
inline std::string config_text(const ModelSpec& spec) {
  if (spec.family == Family::opt)
    return fmt::format(
        R"({{"model_type":"opt","num_hidden_layers":{},"hidden_size":{},"word_embed_proj_dim":{},"ffn_dim":{},)"
        R"("num_attention_heads":{},"vocab_size":{},"max_position_embeddings":{},"activation_function":"relu",)"
        R"("do_layer_norm_before":true,"tie_word_embeddings":{},"eos_token_id":2}})",
        spec.layers, spec.hidden, spec.hidden, spec.intermediate, spec.heads, spec.vocab, spec.max_positions,
        spec.tied_head);
  std::string text = fmt::format(
      R"({{"model_type":"{}","num_hidden_layers":{},"hidden_size":{},"intermediate_size":{},"num_attention_heads":{},)"
      R"("num_key_value_heads":{},"head_dim":{},"vocab_size":{},"max_position_embeddings":{},"rms_norm_eps":1e-05,)"
      R"("rope_theta":10000.0,"hidden_act":"silu","tie_word_embeddings":{},"eos_token_id":2)",
      name_of(spec.family), spec.layers, spec.hidden, spec.intermediate, spec.heads, spec.kv_heads, spec.head_dim,
      spec.vocab, spec.max_positions, spec.tied_head);
  if (spec.family == Family::mistral) text += fmt::format(R"(,"sliding_window":{})", spec.sliding_window);
  if (spec.family == Family::llama)
    text += fmt::format(R"(,"attention_bias":{},"mlp_bias":{})", spec.qkv_bias, spec.mlp_bias);
  return text + "}";
}

using RawTensors = std::vector<std::pair<TensorShape, std::string>>;  // name and shape, bytes

inline void write_safetensors(const std::filesystem::path& path, const RawTensors& tensors, std::string_view dtype) {
  SafetensorsWriter writer;
  std::vector<std::span<const std::byte>> payloads;
  for (const auto& [tensor, bytes] : tensors) {
    writer.add(tensor.name, dtype, tensor.shape, bytes.size());
    payloads.push_back(std::as_bytes(std::span(bytes)));
  }
  writer.write(path, payloads);
}

/// What Hugging Face's OPT calls a tensor that is called `name` here.
inline std::string opt_tensor_name(const std::string& name) {
  const std::map<std::string, std::string> outside = {
      {"model.embed_tokens.weight", "model.decoder.embed_tokens.weight"},
      {"model.embed_positions.weight", "model.decoder.embed_positions.weight"},
      {"model.norm.weight", "model.decoder.final_layer_norm.weight"},
      {"model.norm.bias", "model.decoder.final_layer_norm.bias"},
      {"lm_head.weight", "lm_head.weight"}};
  if (outside.contains(name)) return outside.at(name);
  const std::map<std::string, std::string> inside = {{"self_attn.q_proj", "self_attn.q_proj"},
                                                     {"self_attn.k_proj", "self_attn.k_proj"},
                                                     {"self_attn.v_proj", "self_attn.v_proj"},
                                                     {"self_attn.o_proj", "self_attn.out_proj"},
                                                     {"mlp.up_proj", "fc1"},
                                                     {"mlp.down_proj", "fc2"},
                                                     {"input_layernorm", "self_attn_layer_norm"},
                                                     {"post_attention_layernorm", "final_layer_norm"}};
  const std::string prefix = "model.layers.";
  const std::size_t dot = name.find('.', prefix.size()), last = name.rfind('.');
  return "model.decoder.layers." + name.substr(prefix.size(), dot + 1 - prefix.size()) +
         inside.at(name.substr(dot + 1, last - dot - 1)) + name.substr(last);
}

inline RawTensors raw_tensors(const TinyModel& model, DType dtype) {
  RawTensors tensors;
  for (TensorShape& tensor : required_tensors(model.spec)) {
    std::string bytes = bytes_as(model.weights.at(tensor.name), dtype);
    if (model.spec.family == Family::opt) tensor.name = opt_tensor_name(tensor.name);
    tensors.emplace_back(std::move(tensor), std::move(bytes));
  }
  return tensors;
}

inline void write_hf(const TinyModel& model, const std::filesystem::path& folder, DType dtype = DType::f32) {
  write_text(folder / "config.json", config_text(model.spec));
  write_safetensors(folder / "model.safetensors", raw_tensors(model, dtype), name_of(dtype));
}

/// The same model in `shards` files under an index.
inline void write_sharded_hf(const TinyModel& model, const std::filesystem::path& folder, std::size_t shards) {
  write_text(folder / "config.json", config_text(model.spec));
  const RawTensors all = raw_tensors(model, DType::f32);
  std::string map;
  for (std::size_t shard = 0; shard < shards; ++shard) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
    RawTensors part;
    for (std::size_t i = shard; i < all.size(); i += shards) {
      part.push_back(all[i]);
      map += fmt::format("{}\"{}\":\"{}\"", map.empty() ? "" : ",", all[i].first.name, name);
    }
    write_safetensors(folder / name, part, "F32");
  }
  write_text(folder / "model.safetensors.index.json", R"({"metadata":{},"weight_map":{)" + map + "}}");
}

/// Puts a GGUF file together, piece by piece, in the order of the calls.
class GgufBuilder {
 public:
  void text(const std::string& key, const std::string& value) { raw_value(key, 8, sized(value)); }
  void u32(const std::string& key, std::uint32_t value) { raw_value(key, 4, little(value)); }
  void f32(const std::string& key, float value) { raw_value(key, 6, little(value)); }
  void flag(const std::string& key, bool value) { raw_value(key, 7, std::string(1, static_cast<char>(value))); }
  void raw_value(const std::string& key, std::uint32_t type, const std::string& bytes) {
    values_ += sized(key) + little(type) + bytes;
    ++value_count_;
  }
  /// `shape` row-major; `type` is ggml's number.
  void tensor(const std::string& name, const std::vector<std::int64_t>& shape, std::uint32_t type,
              const std::string& bytes) {
    std::string dimensions;
    for (std::size_t i = shape.size(); i-- > 0;) dimensions += little(static_cast<std::uint64_t>(shape[i]));
    raw_tensor(name, static_cast<std::uint32_t>(shape.size()), dimensions, type, data_.size(), bytes);
  }
  void raw_tensor(const std::string& name, std::uint32_t dimension_count, const std::string& dimensions,
                  std::uint32_t type, std::uint64_t offset, const std::string& bytes) {
    table_ += sized(name) + little(dimension_count) + dimensions + little(type) + little(offset);
    data_ += bytes;
    data_.append((32 - data_.size() % 32) % 32, '\0');
    ++tensor_count_;
  }
  std::string file(std::uint32_t version = 3) const {
    std::string bytes = "GGUF" + little(version) + little(tensor_count_) + little(value_count_) + values_ + table_;
    bytes.append((32 - bytes.size() % 32) % 32, '\0');
    return bytes + data_;
  }
  template <typename T>
  static std::string little(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }
  static std::string sized(const std::string& text) { return little(std::uint64_t{text.size()}) + text; }

 private:
  std::uint64_t tensor_count_ = 0, value_count_ = 0;
  std::string values_, table_, data_;
};

inline void add_gguf_keys(GgufBuilder& gguf, const ModelSpec& spec) {
  const std::string name = spec.family == Family::mistral ? "llama" : std::string(name_of(spec.family));
  gguf.text("general.architecture", name);
  gguf.u32(name + ".block_count", static_cast<std::uint32_t>(spec.layers));
  gguf.u32(name + ".embedding_length", static_cast<std::uint32_t>(spec.hidden));
  gguf.u32(name + ".feed_forward_length", static_cast<std::uint32_t>(spec.intermediate));
  gguf.u32(name + ".attention.head_count", static_cast<std::uint32_t>(spec.heads));
  gguf.u32(name + ".attention.head_count_kv", static_cast<std::uint32_t>(spec.kv_heads));
  gguf.u32(name + ".attention.key_length", static_cast<std::uint32_t>(spec.head_dim));
  gguf.u32(name + ".context_length", static_cast<std::uint32_t>(spec.max_positions));
  if (spec.sliding_window != 0)
    gguf.u32(name + ".attention.sliding_window", static_cast<std::uint32_t>(spec.sliding_window));
  gguf.f32(name + ".attention.layer_norm_rms_epsilon", 1e-5f);
  gguf.f32(name + ".rope.freq_base", 10000.0f);
  gguf.u32("tokenizer.ggml.eos_token_id", 2);
}

inline std::string gguf_tensor_name(std::string name) {
  const std::pair<std::string, std::string> parts[] = {{"model.embed_tokens", "token_embd"},
                                                       {"model.norm", "output_norm"},
                                                       {"lm_head", "output"},
                                                       {"model.layers", "blk"},
                                                       {"input_layernorm", "attn_norm"},
                                                       {"post_attention_layernorm", "ffn_norm"},
                                                       {"self_attn.q_norm", "attn_q_norm"},
                                                       {"self_attn.k_norm", "attn_k_norm"},
                                                       {"self_attn.q_proj", "attn_q"},
                                                       {"self_attn.k_proj", "attn_k"},
                                                       {"self_attn.v_proj", "attn_v"},
                                                       {"self_attn.o_proj", "attn_output"},
                                                       {"mlp.gate_proj", "ffn_gate"},
                                                       {"mlp.up_proj", "ffn_up"},
                                                       {"mlp.down_proj", "ffn_down"}};
  for (const auto& [from, to] : parts)
    if (const std::size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

/// What llama.cpp's converter does to q and k of llama models: within a head, row j·d/2 + i goes to row 2i + j.
inline std::vector<float> interleave_rows(const std::vector<float>& values, std::int64_t rows, std::int64_t head_dim) {
  const std::size_t cols = values.size() / static_cast<std::size_t>(rows);
  std::vector<float> out(values.size());
  for (std::int64_t head = 0; head < rows / head_dim; ++head)
    for (std::int64_t j = 0; j < 2; ++j)
      for (std::int64_t i = 0; i < head_dim / 2; ++i)
        std::memcpy(&out[static_cast<std::size_t>(head * head_dim + 2 * i + j) * cols],
                    &values[static_cast<std::size_t>(head * head_dim + j * head_dim / 2 + i) * cols],
                    cols * sizeof(float));
  return out;
}

inline bool is_q_or_k(const std::string& name) {
  return name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos;
}

inline std::string gguf_bytes(const TinyModel& model, DType dtype = DType::f32) {
  const bool interleaves = model.spec.family == Family::llama || model.spec.family == Family::mistral;
  GgufBuilder gguf;
  add_gguf_keys(gguf, model.spec);
  for (const TensorShape& tensor : required_tensors(model.spec)) {
    std::vector<float> values = model.weights.at(tensor.name);
    if (interleaves && is_q_or_k(tensor.name)) values = interleave_rows(values, tensor.shape[0], model.spec.head_dim);
    const DType stored = tensor.shape.size() == 1 ? DType::f32 : dtype;
    const std::uint32_t type = stored == DType::f32 ? 0 : stored == DType::f16 ? 1 : 30;
    gguf.tensor(gguf_tensor_name(tensor.name), tensor.shape, type, bytes_as(values, stored));
  }
  return gguf.file();
}

}  // namespace scalebits::testing_models
