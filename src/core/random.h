// Counter-based random numbers: value number i of stream s under a seed is a pure function of (seed, s, i), so that
// results depend neither on the order of calls nor on the number of threads. SplitMix64's finaliser, applied twice.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace scalebits {

class CounterRng {
 public:
  explicit CounterRng(std::uint64_t seed, std::uint64_t stream = 0)
      : key_(mix(seed + 0x9e3779b97f4a7c15ull * (stream + 1))) {}

  std::uint64_t bits(std::uint64_t index) const { return mix(key_ ^ mix(index + 0x9e3779b97f4a7c15ull)); }
  /// In [0, 1), 53 random bits.
  double uniform(std::uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }
  /// In [0, bound), bound > 0; bias below 2^-32 for bounds below 2^32.
  std::uint64_t below(std::uint64_t index, std::uint64_t bound) const { return multiply_high(bits(index), bound); }
  /// Standard normal (Box–Muller on the two draws 2·index and 2·index + 1).
  double normal(std::uint64_t index) const {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(2 * index)));
    return radius * std::cos(2.0 * std::numbers::pi * uniform(2 * index + 1));
  }

 private:
  static std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<Wide>(a) * b) >> 64);
  }
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  std::uint64_t key_;
};

}  // namespace scalebits
