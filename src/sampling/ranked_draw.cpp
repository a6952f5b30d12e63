#include "sampling/ranked_draw.h"

#include <algorithm>

namespace scalebits {
namespace {

/// The bins' logits: the likeliest are in bin 0, and no bin holds one that is likelier than any in a bin before.
class Bins {
 public:
  explicit Bins(const std::vector<Candidate>& candidates) {
    const auto [least, largest] = std::minmax_element(
        candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; });
    largest_ = largest->logit;
    count_ = std::clamp<std::size_t>(candidates.size() / 8, 1, 2048);
    per_logit_ = static_cast<float>(count_) / (largest_ - least->logit);
  }
  std::size_t count() const { return count_; }
  std::size_t of(const Candidate& candidate) const {
    // In this order of arguments what is not a number, where all logits are the same, is in the last bin.
    return static_cast<std::size_t>(
        static_cast<std::int32_t>(std::min(static_cast<float>(count_ - 1), (largest_ - candidate.logit) * per_logit_)));
  }

 private:
  float largest_ = 0, per_logit_ = 0;
  std::size_t count_ = 0;
};

}  // namespace

/// The first with which the sum of weights is `reached`; the last if there is none.
template <typename Reached>
Candidate RankedDraw::first_with(const std::vector<Candidate>& candidates, const Reached& reached) {
  const Bins bins(candidates);
  sums_.assign(bins.count(), 0);
  for (const Candidate& candidate : candidates) sums_[bins.of(candidate)] += static_cast<double>(candidate.weight);
  std::size_t chosen = 0;
  double sum = 0, before = 0;
  for (std::size_t bin = 0; bin < bins.count() && !reached(sum); ++bin) {
    if (sums_[bin] == 0) continue;  // empty
    chosen = bin;
    before = sum;
    sum += sums_[bin];
  }
  bin_.clear();
  for (const Candidate& candidate : candidates)
    if (bins.of(candidate) == chosen) bin_.push_back(candidate);
  std::sort(bin_.begin(), bin_.end(), likelier);
  for (const Candidate& candidate : bin_)
    if (before += static_cast<double>(candidate.weight); reached(before)) return candidate;
  return bin_.back();  // rounding can leave the sum a little smaller
}

void RankedDraw::keep_likeliest(std::vector<Candidate>& candidates, double least) {
  const Candidate last = first_with(candidates, [&](double sum) { return sum >= least; });
  std::erase_if(candidates, [&](const Candidate& candidate) { return likelier(last, candidate); });
}

std::int32_t RankedDraw::draw(const std::vector<Candidate>& candidates, double uniform) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += static_cast<double>(candidate.weight);
  return first_with(candidates, [&](double sum) { return sum > uniform * total; }).id;
}

}  // namespace scalebits
