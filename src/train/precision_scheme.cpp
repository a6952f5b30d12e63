#include "train/precision_scheme.h"

#include "core/error.h"

namespace scalebits {

PrecisionScheme uniform_scheme(const ModelSpec& spec, NumberFormat format) {
  return PrecisionScheme(linear_count(spec), LinearFormats::uniform(format));
}

double product_flops(const ModelSpec& spec, LinearKind kind) {
  const auto [rows, cols] = linear_shape(spec, kind);
  return static_cast<double>(rows) * static_cast<double>(cols);
}

std::vector<double> linear_flops(const ModelSpec& spec) {
  std::vector<double> flops;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) flops.push_back(3 * product_flops(spec, kind));
  return flops;
}

double fp4_share(const ModelSpec& spec, const PrecisionScheme& scheme) {
  const std::vector<double> flops = linear_flops(spec);
  SCALEBITS_ASSERT(scheme.size() == flops.size());
  double fp4 = 0, all = 0;
  for (std::size_t linear = 0; linear < flops.size(); ++linear) {
    for (const LinearProduct product : kLinearProducts)
      if (is_fp4(scheme[linear].of(product))) fp4 += flops[linear] / 3;
    all += flops[linear];
  }
  return fp4 / all;
}

std::string to_text(const LinearFormats& formats) {
  const std::string forward(name_of(formats.forward));
  if (formats == LinearFormats::uniform(formats.forward)) return forward;
  return fmt::format("{}/{}/{}", forward, name_of(formats.input_gradient), name_of(formats.weight_gradient));
}

LinearFormats formats_from_text(const std::string& text) {
  const std::size_t first = text.find('/');
  if (first == std::string::npos) return LinearFormats::uniform(number_format_from_name(text));
  const std::size_t second = text.find('/', first + 1);
  if (second == std::string::npos)
    fail(ErrorKind::usage,
         "a precision is one number format or three (forward/input gradient/weight gradient), found '{}'", text);
  return {number_format_from_name(text.substr(0, first)),
          number_format_from_name(text.substr(first + 1, second - first - 1)),
          number_format_from_name(text.substr(second + 1))};
}

Json to_json(const ModelSpec& spec, const PrecisionScheme& scheme) {
  Json json = Json::object();
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec))
      json[linear_name(layer, kind)] = to_text(scheme.at(linear_index(spec, layer, kind)));
  return json;
}

PrecisionScheme scheme_from_json(const ModelSpec& spec, const Json& json, const std::string& where) {
  PrecisionScheme scheme(linear_count(spec));
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec))
      scheme[linear_index(spec, layer, kind)] =
          formats_from_text(json_value<std::string>(json, linear_name(layer, kind), where));
  if (json.size() != scheme.size())
    fail_input("{}: wanted the precision of {} linear layers, found {} keys", where, scheme.size(), json.size());
  return scheme;
}

}  // namespace scalebits
