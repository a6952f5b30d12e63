#include "model/model_spec.h"

#include <algorithm>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<Family, std::string_view> kFamilies[] = {{Family::llama, "llama"},
                                                             {Family::mistral, "mistral"},
                                                             {Family::qwen2, "qwen2"},
                                                             {Family::qwen3, "qwen3"},
                                                             {Family::opt, "opt"}};
constexpr std::pair<NormKind, std::string_view> kNormKinds[] = {{NormKind::rms, "rms"}, {NormKind::layer, "layer"}};
constexpr std::pair<PositionKind, std::string_view> kPositionKinds[] = {{PositionKind::rotary, "rotary"},
                                                                        {PositionKind::learned, "learned"}};
constexpr std::pair<MlpKind, std::string_view> kMlpKinds[] = {{MlpKind::swiglu, "swiglu"}, {MlpKind::relu, "relu"}};

constexpr std::pair<RopeScaling::Kind, std::string_view> kRopeKinds[] = {
    {RopeScaling::Kind::none, "none"}, {RopeScaling::Kind::linear, "linear"}, {RopeScaling::Kind::llama3, "llama3"}};

constexpr std::array kUngatedKinds = {LinearKind::q, LinearKind::k,  LinearKind::v,
                                      LinearKind::o, LinearKind::up, LinearKind::down};

/// The name of `value`, and the value of `name`, in a table of them.
template <typename Value, std::size_t N>
std::string_view name_in(const std::pair<Value, std::string_view> (&table)[N], Value value) {
  for (const auto& [known, name] : table)
    if (known == value) return name;
  throw InternalError("a value without a name");
}
template <typename Value, std::size_t N>
Value value_in(const std::pair<Value, std::string_view> (&table)[N], std::string_view name, const std::string& where,
               const char* what) {
  std::string known;
  for (const auto& [value, known_name] : table) {
    if (name == known_name) return value;
    known += (known.empty() ? "" : ", ") + std::string(known_name);
  }
  fail_input("{}: unknown {} '{}'; known are {}", where, what, name, known);
}

/// No dimension of a real model comes near; the product of any two fits 64 bits.
constexpr std::int64_t kMaxDimension = std::int64_t{1} << 28;

std::string_view linear_suffix(LinearKind kind) {
  switch (kind) {
    case LinearKind::q: return "self_attn.q_proj";
    case LinearKind::k: return "self_attn.k_proj";
    case LinearKind::v: return "self_attn.v_proj";
    case LinearKind::o: return "self_attn.o_proj";
    case LinearKind::gate: return "mlp.gate_proj";
    case LinearKind::up: return "mlp.up_proj";
    case LinearKind::down: return "mlp.down_proj";
  }
  throw InternalError("unknown linear kind");
}

}  // namespace

bool has_gate(const ModelSpec& spec) { return spec.mlp == MlpKind::swiglu; }

std::span<const LinearKind> linear_kinds(const ModelSpec& spec) {
  if (has_gate(spec)) return kLinearKinds;
  return kUngatedKinds;
}

std::span<const LinearKind> mlp_inputs(const ModelSpec& spec) {
  const auto kinds = linear_kinds(spec);
  const auto output = std::find(kinds.begin(), kinds.end(), LinearKind::o);  // the MLP's inputs lie behind it
  return {output + 1, kinds.end() - 1};
}

std::int64_t layer_weight_count(const ModelSpec& spec) {
  std::int64_t count = 0;
  for (const LinearKind kind : linear_kinds(spec)) {
    const auto [rows, cols] = linear_shape(spec, kind);
    count += rows * cols;
  }
  return count;
}

std::size_t linear_count(const ModelSpec& spec) {
  return linear_kinds(spec).size() * static_cast<std::size_t>(spec.layers);
}

std::size_t linear_index(const ModelSpec& spec, std::int64_t layer, LinearKind kind) {
  const auto kinds = linear_kinds(spec);
  const auto found = std::find(kinds.begin(), kinds.end(), kind);
  SCALEBITS_ASSERT(found != kinds.end());
  return kinds.size() * static_cast<std::size_t>(layer) + static_cast<std::size_t>(found - kinds.begin());
}

bool has_bias(const ModelSpec& spec, LinearKind kind) {
  switch (kind) {
    case LinearKind::q:
    case LinearKind::k:
    case LinearKind::v: return spec.qkv_bias;
    case LinearKind::o: return spec.o_bias;
    default: return spec.mlp_bias;
  }
}

std::string_view name_of(Family family) { return name_in(kFamilies, family); }

Family family_from_name(const std::string& name, const std::string& where) {
  return value_in(kFamilies, name, where, "architecture");
}

void validate(const ModelSpec& spec, const std::string& where) {
  const std::pair<const char*, std::int64_t> dimensions[] = {{"layers", spec.layers},
                                                             {"hidden", spec.hidden},
                                                             {"intermediate", spec.intermediate},
                                                             {"heads", spec.heads},
                                                             {"kv_heads", spec.kv_heads},
                                                             {"head_dim", spec.head_dim},
                                                             {"vocab", spec.vocab},
                                                             {"max_positions", spec.max_positions}};
  for (const auto& [name, value] : dimensions)
    if (value < 1 || value > kMaxDimension)
      fail_input("{}: {} must be 1 to {}, found {}", where, name, kMaxDimension, value);
  if (spec.heads % spec.kv_heads != 0)
    fail_input("{}: heads ({}) must be a multiple of kv_heads ({})", where, spec.heads, spec.kv_heads);
  if (spec.heads * spec.head_dim > kMaxDimension)
    fail_input("{}: heads x head_dim must be at most {}, found {}", where, kMaxDimension, spec.heads * spec.head_dim);
  if (spec.head_dim % 2 != 0) fail_input("{}: head_dim must be even, found {}", where, spec.head_dim);
  if (!(spec.norm_eps > 0 && spec.norm_eps < 1))
    fail_input("{}: norm_eps must be in (0, 1), found {}", where, spec.norm_eps);
  if (!(spec.rope_theta > 1)) fail_input("{}: rope_theta must be above 1, found {}", where, spec.rope_theta);
  const RopeScaling& rope = spec.rope_scaling;
  if (!(rope.factor > 0)) fail_input("{}: rope scaling factor must be positive", where);
  if (rope.kind == RopeScaling::Kind::llama3 &&
      !(rope.high_freq_factor > rope.low_freq_factor && rope.low_freq_factor > 0 && rope.original_max_positions > 0))
    fail_input("{}: llama3 rope scaling wants 0 < low_freq_factor < high_freq_factor and a positive original length",
               where);
  if (spec.position_offset < 0 || spec.position_offset > kMaxDimension)
    fail_input("{}: position_offset must be 0 to {}, found {}", where, kMaxDimension, spec.position_offset);
  if (spec.sliding_window < 0)
    fail_input("{}: sliding_window must not be negative, found {}", where, spec.sliding_window);
  for (const std::int32_t id : spec.eos_ids)
    if (id < 0 || id >= spec.vocab)
      fail_input("{}: a token that ends a text must be in [0, {}), found {}", where, spec.vocab, id);
}

Json to_json(const ModelSpec& spec) {
  Json rope = {{"kind", name_in(kRopeKinds, spec.rope_scaling.kind)}};
  if (spec.rope_scaling.kind != RopeScaling::Kind::none) rope["factor"] = spec.rope_scaling.factor;
  if (spec.rope_scaling.kind == RopeScaling::Kind::llama3) {
    rope["low_freq_factor"] = spec.rope_scaling.low_freq_factor;
    rope["high_freq_factor"] = spec.rope_scaling.high_freq_factor;
    rope["original_max_positions"] = spec.rope_scaling.original_max_positions;
  }
  Json json = {{"family", name_of(spec.family)},
               {"layers", spec.layers},
               {"hidden", spec.hidden},
               {"intermediate", spec.intermediate},
               {"heads", spec.heads},
               {"kv_heads", spec.kv_heads},
               {"head_dim", spec.head_dim},
               {"vocab", spec.vocab},
               {"max_positions", spec.max_positions},
               {"sliding_window", spec.sliding_window},
               {"norm_eps", spec.norm_eps},
               {"rope_theta", spec.rope_theta},
               {"rope_scaling", rope},
               {"tied_head", spec.tied_head},
               {"qkv_bias", spec.qkv_bias},
               {"o_bias", spec.o_bias},
               {"mlp_bias", spec.mlp_bias},
               {"qk_norm", spec.qk_norm},
               {"eos_ids", spec.eos_ids}};
  // What every model had before there were two kinds is left out, so that their files stay the same bytes.
  if (spec.norm != NormKind::rms) json["norm"] = name_in(kNormKinds, spec.norm);
  if (spec.mlp != MlpKind::swiglu) json["mlp"] = name_in(kMlpKinds, spec.mlp);
  if (spec.positions != PositionKind::rotary) {
    json["positions"] = name_in(kPositionKinds, spec.positions);
    json["position_offset"] = spec.position_offset;
  }
  return json;
}

ModelSpec model_spec_from_json(const Json& json, const std::string& where) {
  const auto integer = [&](const char* key) { return json_value<std::int64_t>(json, key, where); };
  const auto flag = [&](const char* key) { return json_value<bool>(json, key, where); };
  ModelSpec spec;
  spec.family = family_from_name(json_value<std::string>(json, "family", where), where);
  spec.layers = integer("layers");
  spec.hidden = integer("hidden");
  spec.intermediate = integer("intermediate");
  spec.heads = integer("heads");
  spec.kv_heads = integer("kv_heads");
  spec.head_dim = integer("head_dim");
  spec.vocab = integer("vocab");
  spec.max_positions = integer("max_positions");
  spec.sliding_window = integer("sliding_window");
  spec.norm_eps = json_value<double>(json, "norm_eps", where);
  spec.rope_theta = json_value<double>(json, "rope_theta", where);
  const Json rope = json_value<Json>(json, "rope_scaling", where);
  spec.rope_scaling.kind = value_in(kRopeKinds, json_value<std::string>(rope, "kind", where), where, "rope scaling");
  spec.rope_scaling.factor = json_value_or<double>(rope, "factor", 1, where);
  spec.rope_scaling.low_freq_factor = json_value_or<double>(rope, "low_freq_factor", 1, where);
  spec.rope_scaling.high_freq_factor = json_value_or<double>(rope, "high_freq_factor", 4, where);
  spec.rope_scaling.original_max_positions = json_value_or<std::int64_t>(rope, "original_max_positions", 8192, where);
  spec.tied_head = flag("tied_head");
  spec.qkv_bias = flag("qkv_bias");
  spec.o_bias = flag("o_bias");
  spec.mlp_bias = flag("mlp_bias");
  spec.qk_norm = flag("qk_norm");
  const auto eos_ids = json_value<Json>(json, "eos_ids", where);
  if (!eos_ids.is_array()) fail_input("{}: key 'eos_ids' must be a list, found {}", where, eos_ids.type_name());
  for (const Json& id : eos_ids) {
    if (!json_holds<std::int32_t>(id))
      fail_input("{}: key 'eos_ids' must hold token ids, found {}", where, id.dump().substr(0, 40));
    spec.eos_ids.push_back(id.get<std::int32_t>());
  }
  const auto kind = [&](const char* key, const char* otherwise) {
    return json_value_or<std::string>(json, key, otherwise, where);
  };
  spec.norm = value_in(kNormKinds, kind("norm", "rms"), where, "norm");
  spec.mlp = value_in(kMlpKinds, kind("mlp", "swiglu"), where, "MLP");
  spec.positions = value_in(kPositionKinds, kind("positions", "rotary"), where, "kind of positions");
  spec.position_offset = json_value_or<std::int64_t>(json, "position_offset", 0, where);
  validate(spec, where);
  return spec;
}

std::string layer_tensor(std::int64_t layer, std::string_view suffix) {
  return fmt::format("model.layers.{}.{}", layer, suffix);
}

std::string linear_name(std::int64_t layer, LinearKind kind) {
  return fmt::format("model.layers.{}.{}.weight", layer, linear_suffix(kind));
}

std::string bias_name(std::int64_t layer, LinearKind kind) {
  return fmt::format("model.layers.{}.{}.bias", layer, linear_suffix(kind));
}

std::string norm_bias_name(std::string_view weight_name) {
  constexpr std::string_view kWeight = "weight";
  SCALEBITS_ASSERT(weight_name.ends_with(kWeight));
  return std::string(weight_name.substr(0, weight_name.size() - kWeight.size())) + "bias";
}

std::array<std::int64_t, 2> linear_shape(const ModelSpec& spec, LinearKind kind) {
  switch (kind) {
    case LinearKind::q: return {spec.heads * spec.head_dim, spec.hidden};
    case LinearKind::k:
    case LinearKind::v: return {spec.kv_heads * spec.head_dim, spec.hidden};
    case LinearKind::o: return {spec.hidden, spec.heads * spec.head_dim};
    case LinearKind::gate:
    case LinearKind::up: return {spec.intermediate, spec.hidden};
    case LinearKind::down: return {spec.hidden, spec.intermediate};
  }
  throw InternalError("unknown linear kind");
}

std::vector<TensorShape> required_tensors(const ModelSpec& spec) {
  std::vector<TensorShape> tensors;
  const auto add_norm = [&](const std::string& name) {
    tensors.push_back({name, {spec.hidden}});
    if (spec.norm == NormKind::layer) tensors.push_back({norm_bias_name(name), {spec.hidden}});
  };
  tensors.push_back({std::string(kEmbeddingName), {spec.vocab, spec.hidden}});
  if (spec.positions == PositionKind::learned)
    tensors.push_back({std::string(kPositionsName), {spec.position_offset + spec.max_positions, spec.hidden}});
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    add_norm(layer_tensor(layer, "input_layernorm.weight"));
    for (const LinearKind kind : linear_kinds(spec)) {
      const auto [rows, cols] = linear_shape(spec, kind);
      tensors.push_back({linear_name(layer, kind), {rows, cols}});
      if (has_bias(spec, kind)) tensors.push_back({bias_name(layer, kind), {rows}});
      if (kind == LinearKind::o) add_norm(layer_tensor(layer, "post_attention_layernorm.weight"));
    }
    if (spec.qk_norm)
      for (const char* suffix : {"self_attn.q_norm.weight", "self_attn.k_norm.weight"})
        tensors.push_back({layer_tensor(layer, suffix), {spec.head_dim}});
  }
  add_norm(std::string(kFinalNormName));
  if (!spec.tied_head) tensors.push_back({std::string(kHeadName), {spec.vocab, spec.hidden}});
  return tensors;
}

}  // namespace scalebits
