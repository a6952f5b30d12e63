// The packed_i8 and gather kernels, by instruction set; kernel.h says what they compute.
#pragma once

#include "kernels/kernel.h"

namespace scalebits {

/// words[b] holds byte b four times. Defined in a file of its own: a constant that the compiler can see it would make
/// anew in a register for each tile, on the port that the products need.
struct ByteTable {
  std::uint32_t words[256];
};
extern const ByteTable kBytes;

/// At least `bytes` of memory that belongs to the calling thread until its next call; starts at a multiple of 64.
std::byte* thread_scratch(std::size_t bytes);

void run_packed_i8_scalar(const PackedTask& task);
void run_packed_i8_avx2(const PackedTask& task);
void run_packed_i8_avx2_panels(const PackedTask& task);
void run_packed_i8_avx_vnni(const PackedTask& task);
void run_packed_i8_avx_vnni_panels(const PackedTask& task);
void run_packed_i8_avx512(const PackedTask& task);
void run_packed_i8_avx512_panels(const PackedTask& task);
void run_packed_i8_amx(const PackedTask& task);

/// A group whose largest magnitude is below this counts as zeros: 127 over it would not be finite.
inline constexpr float kSmallestPeak = 0x1p-119f;
/// A group with an input that is not finite: values 0, scale NaN.
void gather_not_finite(Activations& out, std::int64_t row, std::int64_t group);
void gather_i8_scalar(const GatherTask& task);
void gather_i8_avx2(const GatherTask& task);
void gather_i8_avx512(const GatherTask& task);
void gather_f32(const GatherTask& task);

}  // namespace scalebits
