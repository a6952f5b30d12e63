// For tests of the graph room: models with the logits and gradients that transformers computed for them (golden files
// of tools/golden/logits_golden.py), what rounding may do to them, and an observer that keeps all it is handed.
#pragma once

#include "graph/observer.h"
#include "graph/weight_source.h"

#include "safetensors/safetensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace scalebits::testing_graph {

inline constexpr double kEpsilon = 0x1p-23;
inline constexpr double kBf16Epsilon = 0x1p-7;

struct Golden {
  Checkpoint checkpoint;
  at::Tensor ids, logits;
  std::map<std::string, at::Tensor> gradients;  // by weight name
  double loss = 0;
};

inline at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.entry(name);
  return to_f32_tensor({DType::f32, entry.shape, entry.bytes, file.file()});
}

inline Golden read_golden(const std::string& name) {
  const auto file =
      SafetensorsFile::open(std::string(SCALEBITS_SOURCE_DIR "/tests/data/graph/") + name + ".safetensors");
  Golden golden;
  golden.checkpoint.spec = model_spec_from_json(parse_json(file.metadata().at("spec"), name), name);
  golden.checkpoint.source = name;
  golden.loss = std::stod(file.metadata().at("loss"));
  for (const SafetensorsEntry& entry : file.entries()) {
    const std::string prefix = "gradient.";
    if (entry.name == "ids") {
      golden.ids = at::empty(entry.shape, at::kLong);
      for (std::int64_t i = 0; i < golden.ids.numel(); ++i) {
        std::int32_t id;
        std::memcpy(&id, entry.bytes.data() + 4 * i, 4);
        golden.ids.data_ptr<std::int64_t>()[i] = id;
      }
    } else if (entry.name == "logits") {
      golden.logits = tensor_of(file, entry.name);
    } else if (entry.name.starts_with(prefix)) {
      golden.gradients[entry.name.substr(prefix.size())] = tensor_of(file, entry.name);
    } else {
      golden.checkpoint.tensors[entry.name] = {DType::f32, entry.shape, entry.bytes, file.file()};
    }
  }
  return golden;
}

inline double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }
inline double difference(const at::Tensor& a, const at::Tensor& b) { return largest(a.sub(b)); }
inline double length_of(const at::Tensor& tensor) { return tensor.norm().item<double>(); }

/// An f32 dot product of length n errs by at most n epsilon of its terms' size; a layer chains five of them
/// (projection, scores, mixing, output or down, and the next norm's mean).
inline double rounding(const ModelSpec& spec, std::int64_t length) {
  const std::int64_t chained =
      2 * spec.hidden + spec.heads * spec.head_dim + spec.head_dim + length + spec.intermediate;
  return static_cast<double>((spec.layers * chained + spec.hidden)) * kEpsilon;
}

struct Recorder : PassObserver {
  std::map<std::string, at::Tensor> gradients;
  std::vector<std::string> order;
  int input_calls = 0;
  std::map<std::pair<std::int64_t, InputSite>, at::Tensor> input_sums;
  GradientKind wanted_kind = GradientKind::mean;

  GradientKind gradient_kind() const override { return wanted_kind; }
  bool wants_linear_inputs() const override { return true; }
  void linear_input(std::int64_t layer, InputSite site, const at::Tensor& x) override {
    ++input_calls;
    at::Tensor& sum = input_sums[{layer, site}];
    sum = sum.defined() ? sum.add(x.sum(0)) : x.sum(0);
  }
  void linear_gradient(std::int64_t layer, LinearKind kind, const at::Tensor& gradient) override {
    ASSERT_FALSE(gradients.contains(linear_name(layer, kind))) << "handed over twice";
    gradients[linear_name(layer, kind)] = gradient.clone();
    order.push_back(linear_name(layer, kind));
  }
  bool wants_embedding_gradient() const override { return true; }
  void embedding_gradient(const at::Tensor& gradient) override {
    gradients[std::string(kEmbeddingName)] = gradient.clone();
  }
  void head_gradient(const at::Tensor& gradient) override { gradients[std::string(kHeadName)] = gradient.clone(); }
};

}  // namespace scalebits::testing_graph
