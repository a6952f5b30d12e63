// A token that may be drawn.
#pragma once

#include <cstdint>

namespace scalebits {

struct Candidate {
  float logit = 0;
  std::int32_t id = 0;
  float weight = 0;  // its probability, but for a factor that all share
};

/// Of equals the smaller id comes first.
inline bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace scalebits
