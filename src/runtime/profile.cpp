#include "runtime/profile.h"

#include <numeric>

namespace scalebits {

std::string_view name_of(Operation operation) {
  constexpr std::array<std::string_view, kOperations> kNames = {"embedding", "norms",  "q, k, v",  "rotate and store",
                                                                "attention", "output", "gate, up", "activation",
                                                                "down",      "head",   "card"};
  return kNames[static_cast<std::size_t>(operation)];
}

double Profile::total_seconds() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

}  // namespace scalebits
