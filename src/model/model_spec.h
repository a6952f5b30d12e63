// What a decoder is: dimensions, norms, positions, MLP, biases. Everything downstream reads this and never the
// checkpoint's own configuration, and asks for what varies, not for the family. Tensor names are those that Hugging
// Face gives a Llama, whatever the checkpoint was.
#pragma once

#include "core/json.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

enum class Family { llama, mistral, qwen2, qwen3, opt };
/// Of the residual stream: RMSNorm, or LayerNorm, which subtracts the mean first and has a bias.
enum class NormKind { rms, layer };
/// Rotary: q and k are turned. Learned: a vector for each position is added to the embedded tokens.
enum class PositionKind { rotary, learned };
/// down(silu(gate x) · up x), or down(relu(up x)).
enum class MlpKind { swiglu, relu };

struct RopeScaling {
  enum class Kind { none, linear, llama3 };
  Kind kind = Kind::none;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  std::int64_t original_max_positions = 8192;
};

struct ModelSpec {
  Family family = Family::llama;
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  std::int64_t max_positions = 0;
  std::int64_t sliding_window = 0;  // tokens each position sees, itself included; 0: all
  NormKind norm = NormKind::rms;
  double norm_eps = 1e-5;
  MlpKind mlp = MlpKind::swiglu;
  PositionKind positions = PositionKind::rotary;
  std::int64_t position_offset = 0;  // learned: the row of the table that position 0 takes
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tied_head = false;  // lm_head.weight is model.embed_tokens.weight
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;               // RMSNorm over each head of q and k, before the rotary embedding
  std::vector<std::int32_t> eos_ids;  // generation stops at any of these
};

/// Throws Error(bad_input) naming `where` and the field unless every dimension is positive, heads divide into
/// kv_heads, head_dim is even and nothing overflows.
void validate(const ModelSpec& spec, const std::string& where);

Json to_json(const ModelSpec& spec);
ModelSpec model_spec_from_json(const Json& json, const std::string& where);

std::string_view name_of(Family family);
/// Throws Error(bad_input) naming `where`, the architecture found and the known ones.
Family family_from_name(const std::string& name, const std::string& where);

/// The linear layers that a decoder layer may have, in the order they run.
enum class LinearKind { q, k, v, o, gate, up, down };
inline constexpr std::array kLinearKinds = {LinearKind::q,    LinearKind::k,  LinearKind::v,   LinearKind::o,
                                            LinearKind::gate, LinearKind::up, LinearKind::down};
/// Whether the MLP is gated, so that there is a linear `gate`.
bool has_gate(const ModelSpec& spec);
/// Those that this model's decoder layers have, in the order they run.
std::span<const LinearKind> linear_kinds(const ModelSpec& spec);
/// Those among them that read the MLP's input.
std::span<const LinearKind> mlp_inputs(const ModelSpec& spec);
/// How many linear layers there are in all, and the place of one among them: layer by layer, in the order they run.
std::size_t linear_count(const ModelSpec& spec);
/// Weights of one layer's linears.
std::int64_t layer_weight_count(const ModelSpec& spec);
std::size_t linear_index(const ModelSpec& spec, std::int64_t layer, LinearKind kind);

/// "model.layers.<layer>.<suffix>".
std::string layer_tensor(std::int64_t layer, std::string_view suffix);
/// "model.layers.3.self_attn.q_proj.weight".
std::string linear_name(std::int64_t layer, LinearKind kind);
bool has_bias(const ModelSpec& spec, LinearKind kind);
/// "model.layers.3.self_attn.q_proj.bias", [rows]; not every model has it.
std::string bias_name(std::int64_t layer, LinearKind kind);
/// [rows = outputs, cols = inputs].
std::array<std::int64_t, 2> linear_shape(const ModelSpec& spec, LinearKind kind);

inline constexpr std::string_view kEmbeddingName = "model.embed_tokens.weight";
inline constexpr std::string_view kPositionsName = "model.embed_positions.weight";
inline constexpr std::string_view kFinalNormName = "model.norm.weight";
inline constexpr std::string_view kHeadName = "lm_head.weight";

/// "model.norm.weight" → "model.norm.bias"; only LayerNorms have it.
std::string norm_bias_name(std::string_view weight_name);

struct TensorShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// Every tensor such a model has, in the order it runs them: embedding, learned positions, layers, final norm, head
/// unless tied.
std::vector<TensorShape> required_tensors(const ModelSpec& spec);

}  // namespace scalebits
