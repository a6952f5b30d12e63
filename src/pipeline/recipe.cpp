#include "pipeline/recipe.h"

#include "core/json_exact.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

namespace scalebits {
namespace {

template <typename Enum>
using EnumNames = std::vector<std::pair<Enum, std::string>>;

const EnumNames<EmbeddingMode> kEmbeddingModes = {
    {EmbeddingMode::sixteen_bits, "16"}, {EmbeddingMode::eight_bits, "8"}, {EmbeddingMode::search, "search"}};
const EnumNames<ClipWeighting> kClipWeightings = {
    {ClipWeighting::none, "none"}, {ClipWeighting::plain, "plain"}, {ClipWeighting::inputs, "inputs"}};
const EnumNames<LossTarget::Kind> kLosses = {{LossTarget::Kind::nll, "nll"}, {LossTarget::Kind::kl, "kl"}};
const EnumNames<GradientKind> kGradients = {{GradientKind::mean, "mean"}, {GradientKind::tokens, "tokens"}};
const EnumNames<FinalRoundingMethod> kRoundings = {{FinalRoundingMethod::nearest, "nearest"},
                                                   {FinalRoundingMethod::gptq, "gptq"},
                                                   {FinalRoundingMethod::tuned, "tuned"}};
const EnumNames<Compute> kComputes = {{Compute::f32, "f32"}, {Compute::bf16, "bf16"}};

template <typename Enum>
std::string enum_name(const EnumNames<Enum>& names, Enum value) {
  for (const auto& [known, name] : names)
    if (known == value) return name;
  throw InternalError("unknown enumerator");
}

template <typename Enum>
Enum enum_value(const EnumNames<Enum>& names, const std::string& text, const std::string& what) {
  std::string known;
  for (const auto& [value, name] : names) {
    if (name == text) return value;
    known += (known.empty() ? "" : ", ") + name;
  }
  fail(ErrorKind::usage, "unknown {} '{}'; known are {}", what, text, known);
}

/// One option: how it is written and how it is read.
struct Field {
  std::string key;
  std::function<Json(const Recipe&)> write;
  std::function<void(Recipe&, const Json&)> read;
};

struct OtherType {
  const char* wanted;
};

template <typename T>
void read_exactly(const Json& json, T& value) {
  const std::optional<T> exact = json_exactly<T>(json);
  if (!exact) throw OtherType{json_name<T>()};
  value = *exact;
}

template <typename Access>
Field plain_field(std::string key, Access access) {
  return {std::move(key), [access](const Recipe& recipe) { return Json(access(const_cast<Recipe&>(recipe))); },
          [access](Recipe& recipe, const Json& json) { read_exactly(json, access(recipe)); }};
}

template <typename Access>
Field optional_field(std::string key, Access access) {
  return {std::move(key),
          [access](const Recipe& recipe) {
            const auto& value = access(const_cast<Recipe&>(recipe));
            return value ? Json(*value) : Json();
          },
          [access](Recipe& recipe, const Json& json) {
            auto& value = access(recipe);
            if (json.is_null())
              value.reset();
            else
              read_exactly(json, value.emplace());
          }};
}

template <typename Access, typename Name, typename Parse>
Field named_field(std::string key, Access access, Name name, Parse parse) {
  return {std::move(key),
          [=](const Recipe& recipe) { return Json(std::string(name(access(const_cast<Recipe&>(recipe))))); },
          [=](Recipe& recipe, const Json& json) {
            std::string text;
            read_exactly(json, text);
            access(recipe) = parse(text);
          }};
}

template <typename Enum, typename Access>
Field enum_field(std::string key, const EnumNames<Enum>& names, Access access) {
  return named_field(
      key, access, [&names](Enum value) { return enum_name(names, value); },
      [&names, key](const std::string& text) { return enum_value(names, text, key); });
}

#define SCALEBITS_MEMBER(path) [](Recipe& recipe) -> auto& { return recipe.path; }

const std::vector<Field>& fields() {
  static const std::vector<Field> all = {
      optional_field("budget_bytes", SCALEBITS_MEMBER(budget_bytes)),
      optional_field("bpw", SCALEBITS_MEMBER(bpw)),
      plain_field("block_rows", SCALEBITS_MEMBER(blocks.rows)),
      plain_field("block_cols", SCALEBITS_MEMBER(blocks.cols)),
      plain_field("group_cols", SCALEBITS_MEMBER(groups.group_cols)),
      plain_field("scale_bits", SCALEBITS_MEMBER(groups.scale_bits)),
      plain_field("zero_bits", SCALEBITS_MEMBER(groups.zero_bits)),
      plain_field("zero_range", SCALEBITS_MEMBER(groups.zero_range)),
      plain_field("octaves", SCALEBITS_MEMBER(groups.octaves)),
      enum_field("clip", kClipWeightings, SCALEBITS_MEMBER(clip)),
      enum_field("embedding", kEmbeddingModes, SCALEBITS_MEMBER(embedding)),
      {"keep",
       [](const Recipe& recipe) {
         Json rules = Json::array();
         for (const KeepRule& rule : recipe.keep) rules.push_back({rule.pattern, rule.bits});
         return rules;
       },
       [](Recipe& recipe, const Json& json) {
         recipe.keep.clear();
         if (!json.is_array()) throw OtherType{"a list of [pattern, bits]"};
         for (const Json& rule : json) {
           if (!rule.is_array() || rule.size() != 2) throw OtherType{"a list of [pattern, bits]"};
           read_exactly(rule[0], recipe.keep.emplace_back().pattern);
           read_exactly(rule[1], recipe.keep.back().bits);
         }
       }},
      plain_field("min_width", SCALEBITS_MEMBER(min_width)),
      plain_field("max_width", SCALEBITS_MEMBER(max_width)),
      plain_field("min_embedding_width", SCALEBITS_MEMBER(min_embedding_width)),
      named_field(
          "reordering", SCALEBITS_MEMBER(reordering), [](Reordering value) { return name_of(value); },
          reordering_from_name),
      enum_field("order_gradient", kGradients, SCALEBITS_MEMBER(order_gradient)),
      named_field(
          "order_statistic", SCALEBITS_MEMBER(order_statistic), [](Statistic value) { return name_of(value); },
          statistic_from_name),
      plain_field("order_bits", SCALEBITS_MEMBER(order_bits)),
      enum_field("gradient", kGradients, SCALEBITS_MEMBER(gradient)),
      named_field(
          "statistic", SCALEBITS_MEMBER(statistic), [](Statistic value) { return name_of(value); },
          statistic_from_name),
      named_field(
          "cost_model", SCALEBITS_MEMBER(cost_model), [](CostModel value) { return name_of(value); },
          cost_model_from_name),
      named_field(
          "allocator", SCALEBITS_MEMBER(allocator), [](Allocator value) { return name_of(value); },
          allocator_from_name),
      plain_field("start_bits", SCALEBITS_MEMBER(start_bits)),
      plain_field("descent_steps", SCALEBITS_MEMBER(descent_steps)),
      plain_field("refresh", SCALEBITS_MEMBER(refresh)),
      plain_field("score_memory", SCALEBITS_MEMBER(score_memory)),
      plain_field("raise_trust", SCALEBITS_MEMBER(raise_trust)),
      plain_field("swap_steps", SCALEBITS_MEMBER(swap_steps)),
      plain_field("swap_fraction", SCALEBITS_MEMBER(swap_fraction)),
      plain_field("min_swap_fraction", SCALEBITS_MEMBER(min_swap_fraction)),
      enum_field("rounding", kRoundings, SCALEBITS_MEMBER(rounding)),
      plain_field("feedback_windows", SCALEBITS_MEMBER(feedback_windows)),
      plain_field("damping", SCALEBITS_MEMBER(feedback.damping)),
      plain_field("asymmetry", SCALEBITS_MEMBER(feedback.asymmetry)),
      plain_field("feedback_sweeps", SCALEBITS_MEMBER(feedback.sweeps)),
      plain_field("tune_steps", SCALEBITS_MEMBER(tune.steps)),
      plain_field("tune_windows", SCALEBITS_MEMBER(tune.windows_per_step)),
      plain_field("tune_rate", SCALEBITS_MEMBER(tune.rate)),
      plain_field("tune_side_rate", SCALEBITS_MEMBER(tune.side_rate)),
      enum_field("loss", kLosses, SCALEBITS_MEMBER(loss)),
      plain_field("windows_per_gradient", SCALEBITS_MEMBER(windows_per_gradient)),
      plain_field("micro_batches", SCALEBITS_MEMBER(micro_batches)),
      plain_field("window_length", SCALEBITS_MEMBER(window_length)),
      plain_field("validation_windows", SCALEBITS_MEMBER(validation_windows)),
      plain_field("seed", SCALEBITS_MEMBER(seed)),
      enum_field("compute", kComputes, SCALEBITS_MEMBER(compute)),
  };
  return all;
}

#undef SCALEBITS_MEMBER

/// Glob with `*` only.
bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern.front() != '*')
    return !text.empty() && pattern.front() == text.front() && matches(pattern.substr(1), text.substr(1));
  for (std::size_t skip = 0; skip <= text.size(); ++skip)
    if (matches(pattern.substr(1), text.substr(skip))) return true;
  return false;
}

}  // namespace

std::string_view name_of(FinalRoundingMethod method) {
  for (const auto& [known, name] : kRoundings)
    if (known == method) return name;
  throw InternalError("unknown rounding");
}

FinalRoundingMethod rounding_from_name(const std::string& name) { return enum_value(kRoundings, name, "rounding"); }

Json to_json(const Recipe& recipe) {
  Json json = Json::object();
  for (const Field& field : fields()) json[field.key] = field.write(recipe);
  return json;
}

Recipe recipe_from_json(const Json& json, const Recipe& base, const std::string& where) {
  if (!json.is_object()) fail_input("{}: a recipe is a JSON object, found {}", where, json.type_name());
  Recipe recipe = base;
  for (const auto& [key, value] : json.items()) {
    const Field* known = nullptr;
    for (const Field& field : fields())
      if (field.key == key) known = &field;
    if (known == nullptr) fail_input("{}: unknown option '{}'", where, key);
    try {
      known->read(recipe, value);
    } catch (const OtherType& other) {
      fail_input("{}: option '{}': wanted {}, found {}", where, key, other.wanted, value.dump().substr(0, 80));
    }
  }
  return recipe;
}

Recipe with_rate(Recipe recipe, double bpw) {
  recipe.bpw = bpw;
  recipe.budget_bytes.reset();
  if (recipe.embedding == EmbeddingMode::search) recipe.embedding = EmbeddingMode::sixteen_bits;
  return recipe;
}

void validate(const Recipe& recipe) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) fail(ErrorKind::usage, "recipe: {}", what);
  };
  require(recipe.budget_bytes.has_value() != recipe.bpw.has_value(), "give exactly one of --budget and --bpw");
  require(!recipe.bpw || (*recipe.bpw > 0 && *recipe.bpw <= 16), "bpw must be in (0, 16]");
  require(
      !recipe.bpw || recipe.embedding != EmbeddingMode::search,
      "bpw is the rate of the linear layers alone, and here the embedding is searched, too: give a budget in bytes (of "
      "a frontier, too, that was searched for one), or embedding '16' or '8'");
  try {
    validate(stored_format(1, 1, recipe.blocks, recipe.groups), "recipe");
  } catch (const Error& error) {
    throw Error(ErrorKind::usage, error.what());
  }
  require(recipe.min_width >= 0 && recipe.min_width <= recipe.max_width && recipe.max_width <= 8,
          "widths must satisfy 0 <= min_width <= max_width <= 8");
  require(recipe.min_embedding_width >= 0 && recipe.min_embedding_width <= 8, "min_embedding_width must be 0 to 8");
  const auto has_sign = [](Statistic statistic, GradientKind kind) {
    return statistic != Statistic::signed_sum || kind == GradientKind::mean;
  };
  require(has_sign(recipe.statistic, recipe.gradient) && has_sign(recipe.order_statistic, recipe.order_gradient),
          "the statistic 'signed' needs a gradient with a sign: 'mean'");
  const bool baq = recipe.allocator == Allocator::baq || recipe.allocator == Allocator::baq_layer;
  require(!baq || recipe.clip == ClipWeighting::inputs, "the allocator 'baq' needs clip 'inputs': its Hessian proxy");
  require(recipe.order_bits >= 1 && recipe.order_bits <= 8, "order_bits must be 1 to 8");
  require(recipe.start_bits >= 0 && recipe.start_bits <= 8, "start_bits must be 0 (automatic) to 8");
  require(recipe.descent_steps >= 1 && recipe.swap_steps >= 0,
          "descent_steps must be at least 1, swap_steps at least 0");
  require(recipe.score_memory >= 0 && recipe.score_memory < 1, "score_memory must be in [0, 1)");
  require(recipe.raise_trust >= 0 && recipe.raise_trust <= 1, "raise_trust must be in [0, 1]");
  require(recipe.swap_fraction > 0 && recipe.swap_fraction <= 1 && recipe.min_swap_fraction > 0,
          "swap fractions must be in (0, 1]");
  require(recipe.feedback_windows >= 1, "feedback_windows must be at least 1");
  require(
      recipe.tune.steps >= 1 && recipe.tune.windows_per_step >= 1 && recipe.tune.rate > 0 && recipe.tune.side_rate >= 0,
      "tune_steps and tune_windows must be at least 1, tune_rate above 0, tune_side_rate not negative");
  require(recipe.feedback.damping > 0 && recipe.feedback.damping <= 1, "damping must be in (0, 1]");
  require(recipe.feedback.sweeps >= 0 && recipe.feedback.sweeps <= 100, "feedback_sweeps must be in [0, 100]");
  require(recipe.feedback.asymmetry >= 0 && recipe.feedback.asymmetry <= 1, "asymmetry must be in [0, 1]");
  require(recipe.windows_per_gradient >= 1 && recipe.validation_windows >= 1, "numbers of windows must be at least 1");
  require(recipe.micro_batches >= 1 && recipe.micro_batches <= recipe.windows_per_gradient,
          "micro_batches must be at least 1 and at most windows_per_gradient");
  require(recipe.window_length == 0 || recipe.window_length >= 2, "window_length must be at least 2");
  for (const KeepRule& rule : recipe.keep)
    require((rule.bits >= 0 && rule.bits <= 8) || rule.bits == 16, "--keep takes 0 to 8 bits, or 16");
}

void require_rules_used(const Recipe& recipe, const ModelSpec& spec, const std::string& where) {
  std::vector<std::string> names = {std::string(kEmbeddingName)};
  if (!spec.tied_head) names.emplace_back(kHeadName);
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) names.push_back(linear_name(layer, kind));
  for (const KeepRule& rule : recipe.keep)
    if (std::ranges::none_of(names, [&](const std::string& name) { return matches(rule.pattern, name); }))
      fail(ErrorKind::usage, "--keep {}={}: no tensor of {} is called that; there are {} and the like", rule.pattern,
           rule.bits, where, names.back());
}

std::optional<int> kept_bits(const Recipe& recipe, const std::string& tensor_name) {
  std::optional<int> bits;
  for (const KeepRule& rule : recipe.keep)
    if (matches(rule.pattern, tensor_name)) bits = rule.bits;
  return bits;
}

}  // namespace scalebits
