// Compiled for AMX with 8-bit integers. Call it only after machine_has(Isa::amx), which asks the system for leave.
#include "bench/machine_loops.h"

#include <immintrin.h>

namespace scalebits {
namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace

std::int32_t peak_amx(std::int64_t rounds) {
  TileConfig config;
  asm volatile("" : : "r"(&config) : "memory");  // GCC 12 drops the stores otherwise
  _tile_loadconfig(&config);
  alignas(64) std::uint8_t inputs[1024];
  for (std::uint8_t& input : inputs) input = 3;
  asm volatile("" : : "r"(inputs) : "memory");
  _tile_loadd(4, inputs, 64);
  _tile_loadd(5, inputs, 64);
  _tile_loadd(6, inputs, 64);
  _tile_loadd(7, inputs, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t round = 0; round < rounds; ++round) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  alignas(64) std::int32_t sums[256];
  _tile_stored(0, sums, 64);
  asm volatile("" : : "r"(sums) : "memory");
  _tile_release();
  return sums[0];
}

}  // namespace scalebits
