// For tests of training on tensors: numbers that rounding finds hard, parameters with them on either place, and what a
// step's roundings may come to.
#pragma once

#include "graph_golden.h"
#include "tiny_models.h"
#include "train/parameters.h"
#include "train/train_arithmetic.h"
#include "train/training_graph.h"

#include "core/parallel.h"
#include "core/random.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace scalebits::testing_train {

using testing_graph::difference, testing_graph::kEpsilon, testing_graph::largest, testing_graph::length_of;

/// The tensors here are so small that threads would only wait for each other; no result depends on their number.
struct OneThread : testing::Environment {
  void SetUp() override { set_thread_count(1), at::set_num_threads(1); }
};
inline const auto* const kOneThread = testing::AddGlobalTestEnvironment(new OneThread);

inline const TrainPlace kTensors = tensor_train_place(at::kCPU);

/// Numbers of many sizes, with zeros of both signs, ties of both element types under a scale of 1, and the largest of
/// either type to make that scale.
inline at::Tensor awkward(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  const CounterRng rng(seed);
  at::Tensor matrix = at::empty({rows, cols}, at::kFloat);
  for (std::int64_t i = 0; i < matrix.numel(); ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    const double spread = std::exp2(static_cast<double>(rng.below(3 * index, 12)) - 6);
    const double normal = rng.normal(1'000'000 + index);
    const float eighths = std::round(static_cast<float>(normal) * 16) / 8;
    const float choices[] = {0.0f, -0.0f, eighths, -6.0f, 448.0f, 1e-41f};
    const std::uint64_t choice = rng.below(3 * index + 1, 24);
    matrix.data_ptr<float>()[i] = choice < 6 ? choices[choice] : static_cast<float>(normal * spread);
  }
  return matrix;
}

/// Three layers whose values, gradients and AdamW's state are the same whatever the place.
inline Parameters random_parameters(const TrainPlace& place, bool tied = true) {
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  spec.layers = 3, spec.tied_head = tied;
  Parameters parameters = Parameters::random(spec, 3, place);
  std::uint64_t seed = 0;
  for (Parameter& parameter : parameters.all()) {
    parameter.value.mul_(parameter.value.dim() == 1 ? 1 : 5);  // attention that is not flat
    const at::Tensor numbers = awkward(2, parameter.value.numel(), ++seed).clamp(-1, 1);
    parameter.gradient.copy_(numbers[0].view_as(parameter.gradient));
    parameter.mean.copy_(numbers[1].view_as(parameter.mean));
    parameter.square.fill_(0.5);
  }
  return parameters;
}

/// Some windows of random tokens.
inline at::Tensor random_ids(const ModelSpec& spec) {
  const CounterRng rng(5);
  at::Tensor ids = at::empty({4, 24}, at::kLong);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(spec.vocab)));
  return ids;
}

/// What f32 sums in another order may do to a step's loss and gradients, relative to them. In full precision that is
/// all; through quantised operands a number carried over a border of its grid moves all behind it by more than
/// roundings, until differences are a good share of what quantisation itself does: `effect` of it, of which a quarter
/// is allowed. Another grid or other draws come to more than half.
inline double rounding_of_step(const ModelSpec& spec, const at::Tensor& ids, double effect) {
  return 2 * testing_graph::rounding(spec, ids.numel()) + effect / 4;
}

/// All gradients of a step in one vector.
inline at::Tensor gradients_of(TrainingGraph& graph, const at::Tensor& ids, NumberFormat format, std::uint64_t step) {
  graph.loss_and_gradients(ids, uniform_scheme(graph.spec(), format), step);
  std::vector<at::Tensor> all;
  for (const Parameter& parameter : graph.parameters().all()) all.push_back(parameter.gradient.flatten());
  return at::cat(all);
}

inline double relative_difference(const at::Tensor& found, const at::Tensor& wanted) {
  return length_of(found.sub(wanted)) / length_of(wanted);
}

}  // namespace scalebits::testing_train
