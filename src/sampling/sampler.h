// From the logits of one position to a token: greedy, or drawn. A pure function, the same on every instruction set;
// where the random number comes from, and what was said before, is the caller's business. Steps, in this order: the
// repetition penalty, temperature, top-k, top-p, min-p, the draw; top-p counts the probabilities of what top-k left,
// min-p compares with the likeliest.
#pragma once

#include "sampling/candidate.h"
#include "sampling/ranked_draw.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

struct SamplingOptions {
  double temperature = 0;         // 0: always the likeliest token, and only the repetition penalty matters
  int top_k = 0;                  // draw among the k likeliest; 0: all
  double top_p = 1;               // draw among the likeliest that together hold this probability
  double min_p = 0;               // leave out what is less likely than this share of the likeliest's probability
  double repetition_penalty = 1;  // above 1: tokens said recently become less likely (logits divided by it when
                                  // positive, multiplied when negative; each token once, however often it was said);
                                  // 0.01 to 100
  int repetition_window = 64;     // how many of the last tokens count as recent
  std::uint64_t seed = 0;         // of the random numbers, for those who draw them

  bool operator==(const SamplingOptions&) const = default;
};

/// Throws Error(usage) when an option is out of its range.
void validate(const SamplingOptions& options);

/// Chooses tokens, one after the other; what it holds is memory that the next choice need not ask for again.
class Sampler {
 public:
  /// `history`: the tokens before, the last one last; `uniform` in [0, 1) decides, unused at temperature 0. Ties go to
  /// the smaller id. Throws Error(bad_input) when a logit is not finite or the history names a token that has none.
  std::int32_t choose(std::span<const float> logits, const SamplingOptions& options,
                      std::span<const std::int32_t> history, double uniform);

 private:
  std::vector<float> penalised_, maxima_, weights_;
  std::vector<double> sums_;
  std::vector<Candidate> candidates_;
  RankedDraw ranked_;
};

/// The same, once.
std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options,
                          std::span<const std::int32_t> history, double uniform);

}  // namespace scalebits
