#include "train/scheme_choice.h"

#include "core/error.h"
#include "core/json.h"
#include "train/ordered_schemes.h"
#include "train/snip.h"

namespace scalebits {

bool is_adaptive(SchemeKind kind) {
  return kind == SchemeKind::snip || kind == SchemeKind::absolute_error || kind == SchemeKind::relative_error;
}

std::function<PrecisionScheme()> ask_for_scheme(const SchemeQuestion& question) {
  const ModelSpec& spec = question.graph().spec();
  const SchemeOptions& options = question.options;
  const NumberFormat high = number_format_from_name(options.high), low = number_format_from_name(options.low);
  const auto settled = [](PrecisionScheme scheme) { return [scheme] { return scheme; }; };
  const auto filled = [&](const std::vector<std::size_t>& order) {
    return settled(fill_in_order(spec, order, high, low, options.fp4_share, options.stages, options.per_product));
  };
  switch (options.kind) {
    case SchemeKind::bf16: return settled(uniform_scheme(spec, NumberFormat::bf16));
    case SchemeKind::high: return settled(uniform_scheme(spec, high));
    case SchemeKind::low: return settled(uniform_scheme(spec, low));
    case SchemeKind::layer_index: return filled(order_by_layer_index(spec));
    case SchemeKind::layer_type: return filled(order_by_layer_type(spec));
    case SchemeKind::random: return filled(random_order(spec, question.seed));
    case SchemeKind::file: return settled(scheme_from_json(spec, read_json_file(options.file), options.file));
    case SchemeKind::snip: {
      const auto choices = scheme_options(high, low, options.per_product);
      require_feasible_share(spec, choices, options.fp4_share, options.stages);
      const SnipMeasurement measured = measure_step(question, {high, low});
      return [=, own = options, spec = spec] {
        return cheapest_scheme(spec, choices, snip_costs(spec, measured, choices, low, own.weight_term), own.fp4_share,
                               own.stages);
      };
    }
    case SchemeKind::absolute_error:
    case SchemeKind::relative_error: {
      const auto choices = scheme_options(high, low, false);
      require_feasible_share(spec, choices, options.fp4_share, options.stages);
      const StepStatistics measured = measure_operands(question, {high, low});
      return [=, own = options, spec = spec] {
        const auto costs = operand_costs(measured, choices, own.kind == SchemeKind::relative_error);
        return cheapest_scheme(spec, choices, costs, own.fp4_share, own.stages);
      };
    }
    default: throw InternalError("unknown scheme");
  }
}

}  // namespace scalebits
