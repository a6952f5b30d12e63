#include "sampling/logit_passes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <limits>

namespace scalebits {
namespace {

/// exp_lanes would give e^-87 for all that is less, and of thousands of impossible tokens one might be drawn.
SCALEBITS_INLINE void weigh_lanes(Lanes& logits, const WeightRule& rule) {
  const Lanes power = (logits - rule.largest) * rule.per_logit;
  logits = power;
  exp_lanes(logits);
  logits = power >= -87.0f ? logits : Lanes{};
}

SCALEBITS_INLINE bool any_reaches(const Lanes& values, float least) {
  const auto reaches = values >= least;
  std::uint64_t part[sizeof reaches / sizeof(std::uint64_t)];
  std::memcpy(part, &reaches, sizeof reaches);
  return (part[0] | part[1] | part[2] | part[3]) != 0;
}

/// The largest of every eighth value from each of the first eight on, `vectors` of them.
SCALEBITS_INLINE void largest_by_lane(const float* values, std::int64_t vectors, float* out) {
  Lanes best;
  load_lanes(best, values);
  for (std::int64_t i = 1; i < vectors; ++i) {
    Lanes some;
    load_lanes(some, values + i * kLanes);
    best = some > best ? some : best;
  }
  store_lanes(out, best);
}

}  // namespace

SCALEBITS_CLONES
void weigh(std::span<const float> logits, const WeightRule& rule, float* out) {
  for_lanes(static_cast<std::int64_t>(logits.size()), [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes weights;
    load_lanes(weights, logits.data() + i, which);
    weigh_lanes(weights, rule);
    store_lanes(out + i, weights, which);
  });
}

void weigh(std::span<Candidate> candidates, const WeightRule& rule) {
  std::array<float, kWeightChunk> logits, weights;
  for (std::size_t begin = 0; begin < candidates.size(); begin += logits.size()) {
    const auto chunk = candidates.subspan(begin, std::min(logits.size(), candidates.size() - begin));
    for (std::size_t i = 0; i < chunk.size(); ++i) logits[i] = chunk[i].logit;
    weigh({logits.data(), chunk.size()}, rule, weights.data());
    for (std::size_t i = 0; i < chunk.size(); ++i) chunk[i].weight = weights[i];
  }
}

SCALEBITS_CLONES
double sum_weights(std::span<const float> logits, const WeightRule& rule, std::vector<double>& sums) {
  const auto count = static_cast<std::int64_t>(logits.size());
  sums.clear();
  double total = 0;
  for (std::int64_t begin = 0; begin < count; begin += kWeightChunk) {
    LongLanes sum;
    for_lanes(std::min(kWeightChunk, count - begin), [&](std::int64_t i, auto which) SCALEBITS_STEP {
      Lanes weights;
      load_lanes(weights, logits.data() + begin + i, which);
      weigh_lanes(weights, rule);
      keep_lanes(weights, which);
      sum.add(weights);
    });
    sums.push_back(sum.total());
    total += sums.back();
  }
  return total;
}

SCALEBITS_CLONES
float reached_by(std::span<const float> logits, std::int64_t count, std::vector<float>& scratch) {
  // Each of `count` groups with the largest maxima holds a logit that reaches the smallest of these. With four times as
  // many groups few hold two.
  const auto vectors = static_cast<std::int64_t>(logits.size()) / kLanes;
  const std::int64_t in_group = std::min<std::int64_t>({64, vectors, vectors * kLanes / 4 / count});
  if (in_group < 2) return -std::numeric_limits<float>::infinity();
  const std::int64_t groups = vectors / in_group * kLanes;
  scratch.resize(static_cast<std::size_t>(groups));
  for (std::int64_t i = 0; i < groups; i += kLanes)
    largest_by_lane(logits.data() + i * in_group, in_group, scratch.data() + i);
  const auto wanted = scratch.begin() + (count - 1);
  std::nth_element(scratch.begin(), wanted, scratch.end(), std::greater<>());
  return *wanted;
}

SCALEBITS_CLONES
void gather(std::span<const float> logits, float least, std::vector<Candidate>& found) {
  constexpr std::int64_t kTogether = 4 * kLanes;
  const auto count = static_cast<std::int64_t>(logits.size());
  const float* const values = logits.data();
  found.clear();
  for (std::int64_t begin = 0; begin < count; begin += kTogether) {
    const std::int64_t end = std::min(begin + kTogether, count);
    if (end - begin == kTogether) {
      Lanes best, next;
      load_lanes(best, values + begin);
      for (std::int64_t i = begin + kLanes; i < end; i += kLanes) {
        load_lanes(next, values + i);
        best = next > best ? next : best;
      }
      if (!any_reaches(best, least)) continue;
    }
    // Without a branch, which would be mispredicted for every other one where many are found.
    std::array<Candidate, kTogether> some;
    std::size_t kept = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      some[kept] = {.logit = values[i], .id = static_cast<std::int32_t>(i)};
      kept += values[i] >= least ? 1 : 0;
    }
    found.insert(found.end(), some.begin(), some.begin() + kept);
  }
}

}  // namespace scalebits
