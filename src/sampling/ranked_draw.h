// Draws among candidates ordered by likelihood, without ordering them all: they are shared out to bins of like logits,
// and the one bin that a sum of weights ends in is sorted.
#pragma once

#include "sampling/candidate.h"

#include <cstdint>
#include <vector>

namespace scalebits {

class RankedDraw {
 public:
  /// Leaves the likeliest candidates whose weights sum to `least` or, if none do, all. Weights are positive.
  void keep_likeliest(std::vector<Candidate>& candidates, double least);
  /// The first, from the likeliest on, with which the sum of weights exceeds that share of all: uniform in [0, 1).
  std::int32_t draw(const std::vector<Candidate>& candidates, double uniform);

 private:
  template <typename Reached>
  Candidate first_with(const std::vector<Candidate>& candidates, const Reached& reached);

  std::vector<double> sums_;    // of each bin
  std::vector<Candidate> bin_;  // sorted
};

}  // namespace scalebits
