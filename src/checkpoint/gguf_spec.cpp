#include "checkpoint/gguf_spec.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

namespace scalebits {
namespace {

/// Ids that mean "none" in files of old converters.
constexpr std::int64_t kNoToken = 0xffffffff;

/// The keys of one architecture: "llama.block_count" and so on.
class Keys {
 public:
  Keys(const GgufFile& file, std::string architecture) : file_(file), architecture_(std::move(architecture)) {}
  std::string full(const char* key) const { return architecture_ + "." + key; }
  std::string where() const { return file_.path().string(); }

  std::int64_t integer(const char* key) const {
    const auto value = file_.integer(full(key));
    if (!value) fail_input("{}: key '{}' is missing", where(), full(key));
    return *value;
  }
  std::int64_t integer_or(const char* key, std::int64_t otherwise) const {
    return file_.integer(full(key)).value_or(otherwise);
  }
  double number_or(const char* key, double otherwise) const {
    const double value = file_.number(full(key)).value_or(otherwise);
    if (!std::isfinite(value)) fail_input("{}: key '{}' must be finite, found {}", where(), full(key), value);
    return value;
  }

 private:
  const GgufFile& file_;
  std::string architecture_;
};

/// What llama3 scaling divides the frequency of rotary pair `pair` by.
double llama3_divisor(const ModelSpec& spec, const RopeScaling& scaling, std::int64_t pair) {
  const double exponent = 2.0 * static_cast<double>(pair) / static_cast<double>(spec.head_dim);
  const double wavelength = 2 * std::numbers::pi * std::pow(spec.rope_theta, exponent);
  const double turns = static_cast<double>(scaling.original_max_positions) / wavelength;
  if (turns > scaling.high_freq_factor) return 1;
  if (turns < scaling.low_freq_factor) return scaling.factor;
  const double smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

/// The tensor of divisors back to the parameters that made it. Every Llama 3 release uses low and high factors 1 and 4
/// and an original length that is a power of two, so those are tried; the largest divisor is the factor.
RopeScaling scaling_from_factors(const GgufTensor& tensor, const ModelSpec& spec, const std::string& file) {
  const std::string where = fmt::format("{}: tensor '{}'", file, tensor.name);
  if (tensor.format->plain != DType::f32 || tensor.shape != std::vector<std::int64_t>{spec.head_dim / 2})
    fail_input("{}: wanted F32 of shape [{}], found {} of shape [{}]", where, spec.head_dim / 2, tensor.format->name,
               fmt::join(tensor.shape, ", "));
  std::vector<float> divisors(static_cast<std::size_t>(spec.head_dim / 2));
  std::memcpy(divisors.data(), tensor.bytes.data(), tensor.bytes.size());
  const auto fits = [&](const RopeScaling& scaling) {
    for (std::size_t i = 0; i < divisors.size(); ++i) {
      // The writer computed in f32: a few roundings of 2^-24 each, and the difference (turns - low) cancels two digits.
      const double wanted =
          scaling.kind == RopeScaling::Kind::none ? 1 : llama3_divisor(spec, scaling, static_cast<std::int64_t>(i));
      if (!(std::abs(divisors[i] - wanted) <= 1e-5 * wanted)) return false;
    }
    return true;
  };
  RopeScaling scaling;
  if (fits(scaling)) return scaling;
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.factor = std::stod(fmt::format("{}", *std::max_element(divisors.begin(), divisors.end())));
  scaling.low_freq_factor = 1;
  scaling.high_freq_factor = 4;
  for (std::int64_t length = 1024; std::isfinite(scaling.factor) && length <= 1 << 20; length *= 2) {
    scaling.original_max_positions = length;
    if (fits(scaling)) return scaling;
  }
  fail_input("{}: the rotary divisors are not those of llama3 scaling, and no other is known", where);
}

RopeScaling read_scaling(const GgufFile& file, const Keys& keys, const ModelSpec& spec) {
  RopeScaling scaling;
  const std::string type = file.text(keys.full("rope.scaling.type")).value_or("none");
  if (type != "none" && type != "linear")
    fail_input("{}: key '{}': unknown rope scaling '{}'; known are none, linear, and llama3 as tensor {}", keys.where(),
               keys.full("rope.scaling.type"), type, kGgufRopeFactors);
  const char* const key = file.has(keys.full("rope.scaling.factor")) ? "rope.scaling.factor" : "rope.scale_linear";
  const double factor = keys.number_or(key, 1);
  const bool is_linear = type == "linear" || !file.has(keys.full("rope.scaling.type"));
  if (is_linear && factor < 0)
    fail_input("{}: key '{}' must be positive, or 0 for none, found {}", keys.where(), keys.full(key), factor);
  if (is_linear && factor != 1 && factor != 0) {  // 0 is as good as none, as llama.cpp reads it
    scaling.kind = RopeScaling::Kind::linear;
    scaling.factor = factor;
  }
  const GgufTensor* factors = file.find_tensor(kGgufRopeFactors);
  if (factors == nullptr) return scaling;
  const RopeScaling llama3 = scaling_from_factors(*factors, spec, keys.where());
  if (scaling.kind != RopeScaling::Kind::none && llama3.kind != RopeScaling::Kind::none)
    fail_input("{}: both linear rope scaling and tensor {}", keys.where(), kGgufRopeFactors);
  return llama3.kind == RopeScaling::Kind::none ? scaling : llama3;
}

bool is_tied(const GgufFile& file) {
  const GgufTensor* head = file.find_tensor("output.weight");
  if (head == nullptr) return true;
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  return embedding != nullptr && head->format == embedding->format && head->shape == embedding->shape &&
         std::memcmp(head->bytes.data(), embedding->bytes.data(), head->bytes.size()) == 0;
}

std::vector<std::int32_t> stop_tokens(const GgufFile& file, const ModelSpec& spec) {
  std::vector<std::int32_t> ids;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const auto id = file.integer(key);
    if (!id || *id == kNoToken || *id == -1) continue;
    if (*id < 0 || *id >= spec.vocab)
      fail_input("{}: key '{}' must be in [0, {}), found {}", file.path().string(), key, spec.vocab, *id);
    if (std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(static_cast<std::int32_t>(*id));
  }
  return ids;
}

}  // namespace

ModelSpec spec_from_gguf(const GgufFile& file) {
  const std::string where = file.path().string();
  const auto architecture = file.text("general.architecture");
  if (!architecture) fail_input("{}: key 'general.architecture' is missing", where);
  const Keys keys(file, *architecture);
  ModelSpec spec;
  spec.family = family_from_name(*architecture, where);
  if (spec.family == Family::opt)
    fail_input("{}: opt models are read from Hugging Face folders only: llama.cpp does not define them", where);
  if (keys.integer_or("expert_count", 0) != 0) fail_input("{}: mixtures of experts are not known", where);

  spec.layers = keys.integer("block_count");
  spec.hidden = keys.integer("embedding_length");
  spec.intermediate = keys.integer("feed_forward_length");
  spec.heads = keys.integer("attention.head_count");
  if (spec.heads < 1)
    fail_input("{}: key '{}' must be positive, found {}", where, keys.full("attention.head_count"), spec.heads);
  spec.kv_heads = keys.integer_or("attention.head_count_kv", spec.heads);
  spec.head_dim = keys.integer_or("attention.key_length", spec.hidden / spec.heads);
  for (const char* key : {"attention.value_length", "rope.dimension_count"})
    if (const std::int64_t found = keys.integer_or(key, spec.head_dim); found != spec.head_dim)
      fail_input("{}: key '{}' must be the head size {}, found {}", where, keys.full(key), spec.head_dim, found);
  spec.max_positions = keys.integer("context_length");
  spec.norm_eps = keys.number_or("attention.layer_norm_rms_epsilon", 0);
  spec.rope_theta = keys.number_or("rope.freq_base", 10000);
  spec.sliding_window = keys.integer_or("attention.sliding_window", 0);
  // Mistral's files call themselves llama; only the window tells them apart.
  if (spec.family == Family::llama && spec.sliding_window != 0) spec.family = Family::mistral;

  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr) fail_input("{}: tensor 'token_embd.weight' is missing", where);
  spec.vocab = embedding->shape[0];
  if (const std::int64_t found = keys.integer_or("vocab_size", spec.vocab); found != spec.vocab)
    fail_input("{}: key '{}' is {}, but tensor 'token_embd.weight' has {} rows", where, keys.full("vocab_size"), found,
               spec.vocab);
  const auto has = [&](const char* name) { return file.find_tensor(name) != nullptr; };
  spec.tied_head = is_tied(file);
  spec.qkv_bias = has("blk.0.attn_q.bias");
  spec.o_bias = has("blk.0.attn_output.bias");
  spec.mlp_bias = has("blk.0.ffn_gate.bias");
  spec.qk_norm = has("blk.0.attn_q_norm.weight");
  validate(spec, where);  // before what is left, which goes by the dimensions
  if (spec.layers > static_cast<std::int64_t>(file.tensors().size()))
    fail_input("{}: key '{}' is {}, the file holds only {} tensors", where, keys.full("block_count"), spec.layers,
               file.tensors().size());
  spec.rope_scaling = read_scaling(file, keys, spec);
  spec.eos_ids = stop_tokens(file, spec);
  validate(spec, where);  // what was read since, too
  return spec;
}

}  // namespace scalebits
