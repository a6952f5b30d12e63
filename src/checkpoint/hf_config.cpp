#include "checkpoint/hf_config.h"

#include "checkpoint/config_keys.h"
#include "checkpoint/opt_config.h"

#include <algorithm>
#include <optional>

namespace scalebits {
namespace {

/// What transformers assumes for an architecture where config.json is silent.
struct FamilyDefaults {
  Family family;
  const char* architecture;
  std::int64_t kv_heads;  // 0: as many as heads
  std::int64_t head_dim;  // 0: hidden / heads
  std::int64_t max_positions;
  std::int64_t sliding_window;
};
constexpr FamilyDefaults kDefaults[] = {{Family::llama, "LlamaForCausalLM", 0, 0, 2048, 0},
                                        {Family::mistral, "MistralForCausalLM", 8, 0, 131072, 4096},
                                        {Family::qwen2, "Qwen2ForCausalLM", 32, 0, 32768, 4096},
                                        {Family::qwen3, "Qwen3ForCausalLM", 32, 128, 32768, 4096},
                                        {Family::opt, "OPTForCausalLM", 0, 0, 2048, 0}};

const FamilyDefaults& defaults_of(Family family) {
  for (const FamilyDefaults& defaults : kDefaults)
    if (defaults.family == family) return defaults;
  throw InternalError("family without defaults");
}

Family family_of(const ConfigKeys& config) {
  if (const auto model_type = config.text("model_type")) return family_from_name(*model_type, config.where());
  const Json architectures = config.get("architectures");
  if (!architectures.is_array() || architectures.empty() || !architectures[0].is_string())
    fail_input("{}: neither 'model_type' nor 'architectures' names the architecture", config.where());
  const auto name = architectures[0].get<std::string>();
  for (const FamilyDefaults& defaults : kDefaults)
    if (name == defaults.architecture) return defaults.family;
  return family_from_name(name, config.where());
}

RopeScaling scaling_from(const ConfigKeys& config, const ConfigKeys& rope, std::int64_t max_positions) {
  const std::string type = rope.text("rope_type").value_or(rope.text("type").value_or("default"));
  RopeScaling scaling;
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3")
    fail_input("{}: unknown rope type '{}'; known are default, linear, llama3", rope.where(), type);
  scaling.factor = rope.required_number("factor");
  scaling.kind = RopeScaling::Kind::linear;
  if (type == "linear") return scaling;
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.low_freq_factor = rope.required_number("low_freq_factor");
  scaling.high_freq_factor = rope.required_number("high_freq_factor");
  // The original length beside the object goes before the one within, and without either it is the model's own.
  constexpr char kOriginal[] = "original_max_position_embeddings";
  scaling.original_max_positions = config.integer(kOriginal).value_or(rope.integer(kOriginal).value_or(max_positions));
  return scaling;
}

void read_rope(const ConfigKeys& config, ModelSpec& spec) {
  // transformers 5 writes rope_parameters with everything; before, rope_theta stood beside rope_scaling. Of both it
  // takes rope_scaling, unless that is empty, and rope_theta from the one it takes before the one beside it.
  const Json old = config.get("rope_scaling");
  const bool is_new = old.is_null() || old.empty();
  const char* key = is_new ? "rope_parameters" : "rope_scaling";
  const Json object = config.get(key).is_null() ? Json::object() : config.get(key);
  const ConfigKeys rope(object, fmt::format("{}: {}", config.where(), key));
  spec.rope_theta = config.number("rope_theta").value_or(10000);
  spec.rope_theta = rope.number("rope_theta").value_or(spec.rope_theta);
  spec.rope_scaling = scaling_from(config, rope, spec.max_positions);
  for (const ConfigKeys* keys : {&config, &rope})
    if (keys->number("partial_rotary_factor").value_or(1) != 1)
      fail_input("{}: partial_rotary_factor must be 1, found {}", keys->where(),
                 *keys->number("partial_rotary_factor"));
}

std::int64_t sliding_window_of(const ConfigKeys& config, const ModelSpec& spec) {
  if (spec.family == Family::llama || spec.family == Family::opt) return 0;
  const std::int64_t otherwise = defaults_of(spec.family).sliding_window;
  const std::int64_t window = config.has("sliding_window") ? config.integer("sliding_window").value_or(0) : otherwise;
  if (window < 0) fail_input("{}: sliding_window must not be negative, found {}", config.where(), window);
  if (spec.family == Family::mistral) return window;
  if (window == 0 || !config.flag("use_sliding_window", false)) return 0;
  // Qwen may slide only in some layers: those listed, or those from max_window_layers on.
  std::int64_t sliding =
      spec.layers - std::clamp<std::int64_t>(config.integer("max_window_layers").value_or(28), 0, spec.layers);
  const Json types = config.get("layer_types");
  if (types.is_array()) sliding = std::count(types.begin(), types.end(), Json("sliding_attention"));
  if (sliding != 0 && sliding != spec.layers)
    fail_input("{}: sliding attention in {} of {} layers; wanted all or none", config.where(), sliding, spec.layers);
  return sliding == 0 ? 0 : window;
}

/// All but family, sliding_window and eos_ids, for the families that are variations of Llama.
void read_llama_config(const ConfigKeys& config, ModelSpec& spec) {
  const FamilyDefaults& defaults = defaults_of(spec.family);
  const std::string act = config.text("hidden_act").value_or("silu");
  if (act != "silu" && act != "swish") fail_input("{}: hidden_act must be silu, found '{}'", config.where(), act);

  spec.layers = config.required_integer("num_hidden_layers");
  spec.hidden = config.required_integer("hidden_size");
  spec.intermediate = config.required_integer("intermediate_size");
  spec.heads = config.required_integer("num_attention_heads");
  spec.vocab = config.required_integer("vocab_size");
  if (spec.heads < 1) fail_input("{}: num_attention_heads must be positive, found {}", config.where(), spec.heads);
  // An explicit null means "as many as heads" everywhere; an absent key means the architecture's default.
  const std::int64_t absent_kv_heads = config.has("num_key_value_heads") ? 0 : defaults.kv_heads;
  spec.kv_heads = config.integer("num_key_value_heads").value_or(absent_kv_heads == 0 ? spec.heads : absent_kv_heads);
  const std::int64_t absent_head_dim = config.has("head_dim") ? 0 : defaults.head_dim;
  spec.head_dim =
      config.integer("head_dim").value_or(absent_head_dim == 0 ? spec.hidden / spec.heads : absent_head_dim);
  spec.max_positions = config.integer("max_position_embeddings").value_or(defaults.max_positions);
  spec.norm_eps = config.number("rms_norm_eps").value_or(1e-6);
  spec.tied_head = config.flag("tie_word_embeddings", false);
  const bool attention_bias = spec.family != Family::mistral && config.flag("attention_bias", false);
  spec.qkv_bias = spec.family == Family::qwen2 || attention_bias;
  spec.o_bias = spec.family != Family::qwen2 && attention_bias;
  spec.mlp_bias = spec.family == Family::llama && config.flag("mlp_bias", false);
  spec.qk_norm = spec.family == Family::qwen3;
  read_rope(config, spec);
}

std::vector<std::int32_t> eos_of(const ConfigKeys& config, const ModelSpec& spec) {
  const Json value = config.get("eos_token_id");
  std::vector<std::int32_t> ids;
  for (const Json& id : value.is_array() ? value : value.is_null() ? Json::array() : Json::array({value})) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= spec.vocab)
      fail_input("{}: eos_token_id must be in [0, {}), found {}", config.where(), spec.vocab, id.dump().substr(0, 40));
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

std::string torch_name(DType dtype) {
  return dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
}

/// As transformers writes it: null, one id or a list.
Json eos_config(const ModelSpec& spec) {
  if (spec.eos_ids.empty()) return nullptr;
  return spec.eos_ids.size() == 1 ? Json(spec.eos_ids[0]) : Json(spec.eos_ids);
}

Json llama_config(const ModelSpec& spec, DType dtype) {
  Json config = {{"architectures", Json::array({defaults_of(spec.family).architecture})},
                 {"model_type", name_of(spec.family)},
                 {"vocab_size", spec.vocab},
                 {"hidden_size", spec.hidden},
                 {"intermediate_size", spec.intermediate},
                 {"num_hidden_layers", spec.layers},
                 {"num_attention_heads", spec.heads},
                 {"num_key_value_heads", spec.kv_heads},
                 {"head_dim", spec.head_dim},
                 {"max_position_embeddings", spec.max_positions},
                 {"hidden_act", "silu"},
                 {"rms_norm_eps", spec.norm_eps},
                 {"rope_theta", spec.rope_theta},
                 {"rope_scaling", nullptr},
                 {"tie_word_embeddings", spec.tied_head},
                 {"torch_dtype", torch_name(dtype)},
                 {"eos_token_id", eos_config(spec)}};
  if (spec.rope_scaling.kind == RopeScaling::Kind::linear)
    config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", spec.rope_scaling.factor}};
  if (spec.rope_scaling.kind == RopeScaling::Kind::llama3)
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", spec.rope_scaling.factor},
                              {"low_freq_factor", spec.rope_scaling.low_freq_factor},
                              {"high_freq_factor", spec.rope_scaling.high_freq_factor},
                              {"original_max_position_embeddings", spec.rope_scaling.original_max_positions}};
  const Json window = spec.sliding_window == 0 ? Json() : Json(spec.sliding_window);
  switch (spec.family) {
    case Family::llama:
      config["attention_bias"] = spec.qkv_bias;
      config["mlp_bias"] = spec.mlp_bias;
      break;
    case Family::mistral: config["sliding_window"] = window; break;
    case Family::opt: throw InternalError("no variation of Llama");
    case Family::qwen3: config["attention_bias"] = spec.qkv_bias; [[fallthrough]];
    case Family::qwen2:
      config["use_sliding_window"] = spec.sliding_window != 0;
      config["sliding_window"] = window;
      config["max_window_layers"] = spec.sliding_window == 0 ? spec.layers : 0;
      break;
  }
  return config;
}

}  // namespace

ModelSpec spec_from_hf_config(const Json& json, const Json& generation_json, const std::string& where) {
  const ConfigKeys config(json, where);
  ModelSpec spec;
  spec.family = family_of(config);
  if (!config.get("quantization_config").is_null())
    fail_input("{}: the checkpoint is already quantised (quantization_config); wanted F32, F16 or BF16 weights", where);
  if (spec.family == Family::opt)
    read_opt_config(config, spec);
  else
    read_llama_config(config, spec);
  validate(spec, where);
  spec.sliding_window = sliding_window_of(config, spec);
  spec.eos_ids = eos_of(config, spec);
  if (!generation_json.is_null()) {
    const ConfigKeys generation(generation_json, where + " (generation_config.json)");
    if (generation.has("eos_token_id")) spec.eos_ids = eos_of(generation, spec);
  }
  return spec;
}

Json hf_config_from_spec(const ModelSpec& spec, DType dtype, const std::string& where) {
  Json config;
  if (spec.family == Family::opt) {
    config = opt_config(spec);
    config["architectures"] = Json::array({defaults_of(spec.family).architecture});
    config["model_type"] = name_of(spec.family);
    config["torch_dtype"] = torch_name(dtype);
    config["eos_token_id"] = eos_config(spec);
  } else {
    config = llama_config(spec, dtype);
  }
  // Each architecture knows only some combinations of biases, norms and windows.
  if (to_json(spec_from_hf_config(config, Json(), where)) != to_json(spec))
    fail_input("{}: a {} config.json cannot describe this model: {}", where, name_of(spec.family),
               to_json(spec).dump());
  return config;
}

}  // namespace scalebits
