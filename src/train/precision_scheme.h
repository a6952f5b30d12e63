// Which number format each product of each linear layer runs in.
#pragma once

#include "core/json.h"
#include "model/model_spec.h"
#include "train/number_format.h"

#include <string>
#include <vector>

namespace scalebits {

/// The three products of a linear layer in training: y = x W^T, dx = dy W, dW = dy^T x.
enum class LinearProduct { forward, input_gradient, weight_gradient };
inline constexpr LinearProduct kLinearProducts[] = {LinearProduct::forward, LinearProduct::input_gradient,
                                                    LinearProduct::weight_gradient};

struct LinearFormats {
  NumberFormat forward = NumberFormat::bf16;
  NumberFormat input_gradient = NumberFormat::bf16;
  NumberFormat weight_gradient = NumberFormat::bf16;

  NumberFormat of(LinearProduct product) const {
    return product == LinearProduct::forward          ? forward
           : product == LinearProduct::input_gradient ? input_gradient
                                                      : weight_gradient;
  }
  void set(LinearProduct product, NumberFormat format) {
    (product == LinearProduct::forward          ? forward
     : product == LinearProduct::input_gradient ? input_gradient
                                                : weight_gradient) = format;
  }
  bool operator==(const LinearFormats&) const = default;
  static LinearFormats uniform(NumberFormat format) { return {format, format, format}; }
};

/// By linear_index().
using PrecisionScheme = std::vector<LinearFormats>;

PrecisionScheme uniform_scheme(const ModelSpec& spec, NumberFormat format);

/// Multiply-adds of one product of a linear layer for one token: its weights. All three products take as many.
double product_flops(const ModelSpec& spec, LinearKind kind);
/// The same for each linear layer and all of its products, by linear_index().
std::vector<double> linear_flops(const ModelSpec& spec);
/// The share of the linear layers' operations that run in FP4.
double fp4_share(const ModelSpec& spec, const PrecisionScheme& scheme);

/// "fp4" for three alike, else "fp4/fp8/fp8" in the order forward, input gradient, weight gradient.
std::string to_text(const LinearFormats& formats);
/// Throws Error(usage) naming the text.
LinearFormats formats_from_text(const std::string& text);
/// {"model.layers.0.self_attn.q_proj.weight": "fp4", …}.
Json to_json(const ModelSpec& spec, const PrecisionScheme& scheme);
/// Every linear layer must be there and nothing else; Error(bad_input) naming `where` and the key.
PrecisionScheme scheme_from_json(const ModelSpec& spec, const Json& json, const std::string& where);

}  // namespace scalebits
