// The loops that measure what a machine can do at most: reading memory, and multiplying 8-bit integers in registers.
// Each file loops_<set>.cpp is compiled for that instruction set alone.
#pragma once

#include "kernels/isa.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace scalebits {

struct ReadLoop {
  std::string_view name;
  Isa isa;
  /// Loads [data, data + bytes) in one stream from left to right, `bytes` a multiple of 512; returns something that
  /// depends on every byte.
  std::uint64_t (*run)(const std::byte* data, std::size_t bytes);
};

struct PeakLoop {
  std::string_view name;  // the instruction
  Isa isa;
  double operations_per_round;  // multiplications and additions
  std::int32_t (*run)(std::int64_t rounds);
};

/// Best first.
std::span<const ReadLoop> read_loops();
std::span<const PeakLoop> peak_loops();

std::uint64_t read_baseline(const std::byte* data, std::size_t bytes);
std::uint64_t read_avx2(const std::byte* data, std::size_t bytes);
std::uint64_t read_avx512(const std::byte* data, std::size_t bytes);
std::int32_t peak_avx2(std::int64_t rounds);
std::int32_t peak_avx_vnni(std::int64_t rounds);
std::int32_t peak_avx512_vnni(std::int64_t rounds);
std::int32_t peak_amx(std::int64_t rounds);

}  // namespace scalebits
