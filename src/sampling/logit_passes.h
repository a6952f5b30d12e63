// What choosing a token does to a whole vocabulary, in passes of eight logits at a time: the same operations in the
// same order on every instruction set, so that no draw depends on the machine.
#pragma once

#include "core/lanes.h"
#include "sampling/candidate.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

/// How logits become weights: e^((logit - largest) · per_logit), 0 where that is below e^-87. The largest's is 1.
struct WeightRule {
  float largest = 0;
  float per_logit = 1;  // finite, one over the temperature
};

/// `out` has room for as many.
void weigh(std::span<const float> logits, const WeightRule& rule, float* out);
void weigh(std::span<Candidate> candidates, const WeightRule& rule);

/// Logits whose weights are summed together in f32.
inline constexpr std::int64_t kWeightChunk = std::int64_t{LongLanes::kVectors} * kLanes;
/// `sums` becomes the sums of the weights of each chunk, the last one being shorter. Returns the sum of them all.
double sum_weights(std::span<const float> logits, const WeightRule& rule, std::vector<double>& sums);

/// A logit that at least `count` of them reach, and not many more when they lie in no order; -inf where they are too
/// few to tell. `scratch` is memory to work in.
float reached_by(std::span<const float> logits, std::int64_t count, std::vector<float>& scratch);

/// `found` becomes those that are at least `least`, their ids ascending.
void gather(std::span<const float> logits, float least, std::vector<Candidate>& found);

}  // namespace scalebits
