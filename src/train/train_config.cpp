#include "train/train_config.h"

#include "core/error.h"
#include "core/json_exact.h"
#include "train/scheme_choice.h"

#include <limits>
#include <set>
#include <utility>

namespace scalebits {
namespace {

constexpr std::int64_t kMaxCount = 1 << 28;  // of tokens and windows: their products stay within 64 bits

constexpr std::pair<SchemeKind, const char*> kSchemeNames[] = {{SchemeKind::bf16, "bf16"},
                                                               {SchemeKind::high, "fp8"},
                                                               {SchemeKind::low, "fp4"},
                                                               {SchemeKind::snip, "snip"},
                                                               {SchemeKind::absolute_error, "absolute_error"},
                                                               {SchemeKind::relative_error, "relative_error"},
                                                               {SchemeKind::layer_index, "layer_index"},
                                                               {SchemeKind::layer_type, "layer_type"},
                                                               {SchemeKind::random, "random"},
                                                               {SchemeKind::file, "file"}};

SchemeKind scheme_kind_from_name(const std::string& name) {
  std::string known;
  for (const auto& [kind, its_name] : kSchemeNames) {
    if (its_name == name) return kind;
    known += (known.empty() ? "" : ", ") + std::string(its_name);
  }
  fail(ErrorKind::usage, "unknown scheme '{}'; known are {}", name, known);
}

const char* name_of(SchemeKind wanted) {
  for (const auto& [kind, name] : kSchemeNames)
    if (kind == wanted) return name;
  throw InternalError("unknown scheme");
}

/// Calls visit(key, field) for each plain option.
template <typename Config, typename Visit>
void for_each_option(Config& c, Visit&& visit) {
  visit("start_model", c.start_model);
  visit("start_run", c.start_run);
  visit("tokenizer", c.tokenizer);
  visit("window_length", c.data.window_length);
  visit("batch_windows", c.data.batch_windows);
  visit("validation_windows", c.data.validation_windows);
  visit("micro_batches", c.micro_batches);
  visit("seed", c.data.seed);
  visit("steps", c.steps);
  visit("learning_rate", c.learning_rate);
  visit("lowest_rate_share", c.lowest_rate_share);
  visit("warmup_steps", c.warmup_steps);
  visit("beta1", c.adamw.beta1);
  visit("beta2", c.adamw.beta2);
  visit("epsilon", c.adamw.epsilon);
  visit("weight_decay", c.adamw.weight_decay);
  visit("clip_norm", c.clip_norm);
  visit("compute", c.compute);
  visit("fp8_products", c.fp8_products);
  visit("validation_interval", c.validation_interval);
  visit("checkpoint_interval", c.checkpoint_interval);
  visit("divergence_margin", c.divergence_margin);
  visit("fp4_share", c.scheme.fp4_share);
  visit("high", c.scheme.high);
  visit("low", c.scheme.low);
  visit("per_product", c.scheme.per_product);
  visit("stages", c.scheme.stages);
  visit("update_interval", c.scheme.update_interval);
  visit("probe_windows", c.scheme.probe_windows);
  visit("noise", c.scheme.noise);
  visit("weight_term", c.scheme.weight_term);
  visit("scheme_file", c.scheme.file);
}

template <typename T>
void read(const Json& value, const char* key, const std::string& where, T& field) {
  const std::optional<T> exact = json_exactly<T>(value);
  if (!exact)
    fail_input("{}: option '{}': wanted {}, found {}", where, key, json_name<T>(), value.dump().substr(0, 80));
  field = *exact;
}

}  // namespace

TrainConfig train_config_from_json(const Json& json, TrainConfig base, const std::string& where) {
  if (!json.is_object()) fail_input("{}: wanted a JSON object, found {}", where, json.type_name());
  TrainConfig config = std::move(base);
  std::set<std::string> known = {"model", "scheme"};
  for_each_option(config, [&](const char* key, auto& field) {
    known.insert(key);
    if (json.contains(key)) read(json.at(key), key, where, field);
  });
  for (const auto& [key, value] : json.items())
    if (!known.contains(key)) fail(ErrorKind::usage, "{}: unknown option '{}'", where, key);
  if (json.contains("model")) config.model = json.at("model");
  if (json.contains("scheme"))
    config.scheme.kind = scheme_kind_from_name(json_value<std::string>(json, "scheme", where));
  return config;
}

void require_valid(const TrainConfig& c, const std::string& where) {
  const auto require = [&](bool holds, const char* what) {
    if (!holds) fail(ErrorKind::usage, "{}: {}", where, what);
  };
  require((c.model.is_null() ? 0 : 1) + (c.start_model.empty() ? 0 : 1) + (c.start_run.empty() ? 0 : 1) == 1,
          "exactly one of 'model', 'start_model' and 'start_run' says where to start");
  require(c.model.is_null() || !c.tokenizer.empty(), "a model of random weights needs a 'tokenizer' folder");
  require(c.data.window_length >= 2, "'window_length' must be at least 2");
  require(
      c.data.window_length <= kMaxCount && c.data.batch_windows <= kMaxCount && c.data.validation_windows <= kMaxCount,
      "'window_length', 'batch_windows' and 'validation_windows' must be at most 268435456");
  require(c.data.batch_windows >= 1 && c.data.validation_windows >= 1,
          "'batch_windows' and 'validation_windows' must be at least 1");
  require(c.micro_batches >= 1 && c.micro_batches <= c.data.batch_windows,
          "'micro_batches' must be at least 1 and at most 'batch_windows'");
  require(c.steps >= 1 && c.warmup_steps < c.steps, "'steps' must be at least 1 and more than 'warmup_steps'");
  require(c.learning_rate > 0 && c.clip_norm > 0 && c.divergence_margin > 0,
          "'learning_rate', 'clip_norm' and 'divergence_margin' must be positive");
  require(c.lowest_rate_share >= 0 && c.lowest_rate_share <= 1, "'lowest_rate_share' must be in [0, 1]");
  // In f32, as updates are computed.
  const auto share = [](double beta) { return beta >= 0 && static_cast<float>(beta) < 1; };
  require(share(c.adamw.beta1) && share(c.adamw.beta2), "'beta1' and 'beta2' must be in [0, 1), in f32, too");
  require(c.adamw.epsilon >= std::numeric_limits<float>::min() && c.adamw.weight_decay >= 0,
          "'epsilon' must be a positive number of f32 (at least 1.2e-38), 'weight_decay' not negative");
  require(c.compute == "bf16" || c.compute == "f32", "'compute' must be bf16 or f32");
  require(c.fp8_products == "emulated" || c.fp8_products == "hardware", "'fp8_products' must be emulated or hardware");
  require(c.validation_interval >= 1 && c.checkpoint_interval >= 1 && c.scheme.update_interval >= 1,
          "intervals must be at least 1");
  if (is_adaptive(c.scheme.kind) && c.scheme.update_interval < kInstallDelay)
    fail(ErrorKind::usage,
         "{}: 'update_interval' must be at least {}: that long a choice is solved for beside training", where,
         kInstallDelay);
  require(c.scheme.low != "bf16", "'low' must be a format that rounds: fp8, fp4, mxfp4 or nvfp4");
  require(c.scheme.fp4_share >= 0 && c.scheme.fp4_share <= 1, "'fp4_share' must be in [0, 1]");
  require(c.scheme.stages >= 1 && c.scheme.probe_windows >= 0,
          "'stages' must be at least 1, 'probe_windows' at least 0");
  require(c.scheme.noise > 0 && c.scheme.weight_term >= 0, "'noise' must be positive, 'weight_term' not negative");
  require(!c.scheme.per_product ||
              (c.scheme.kind != SchemeKind::absolute_error && c.scheme.kind != SchemeKind::relative_error),
          "'per_product' is not for the rules that go by operands' errors: two products share each operand");
  require((c.scheme.kind == SchemeKind::file) == !c.scheme.file.empty(),
          "'scheme_file' belongs to the scheme 'file', and to no other");
}

Json to_json(const TrainConfig& config) {
  Json json;
  json["model"] = config.model;
  for_each_option(config, [&](const char* key, const auto& field) { json[key] = field; });
  json["scheme"] = name_of(config.scheme.kind);
  return json;
}

ModelSpec spec_from_config(const TrainConfig& config, std::int64_t vocab, const std::string& where) {
  ModelSpec spec;
  spec.vocab = vocab;
  spec.max_positions = config.data.window_length;
  spec.tied_head = true;
  std::set<std::string> known;
  const auto take = [&](const char* key, auto& field) {
    known.insert(key);
    if (config.model.contains(key)) read(config.model.at(key), key, where, field);
  };
  take("layers", spec.layers), take("hidden", spec.hidden), take("intermediate", spec.intermediate);
  take("heads", spec.heads), take("vocab", spec.vocab), take("max_positions", spec.max_positions);
  spec.kv_heads = spec.heads;
  spec.head_dim = spec.heads > 0 ? spec.hidden / spec.heads : 0;
  take("kv_heads", spec.kv_heads), take("head_dim", spec.head_dim), take("tied_head", spec.tied_head);
  take("rope_theta", spec.rope_theta), take("norm_eps", spec.norm_eps);
  for (const auto& [key, value] : config.model.items())
    if (!known.contains(key)) fail(ErrorKind::usage, "{}: unknown key '{}' of 'model'", where, key);
  if (spec.vocab < vocab)
    fail_input("{}: the tokenizer has {} tokens, more than the model's vocabulary of {}", where, vocab, spec.vocab);
  validate(spec, where);
  return spec;
}

}  // namespace scalebits
