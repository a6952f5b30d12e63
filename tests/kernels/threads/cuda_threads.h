// Kernels without a card: the .cu files, compiled as C++ with this file before them, run thread by thread on the CPU.
// Every thread is a context of its own that runs until it waits; who goes on is drawn, so results that depend on an
// order that no barrier gives come out different; a few blocks, in a drawn order, take turns in the same way. Told at
// once, with the kernel's name: lanes of a warp that wait at different instructions, a warp's instruction after a lane
// has left, barriers that nobody can pass, copies that are not aligned. What an asynchronous copy will write is spoilt
// when it is asked for and arrives when its thread waits for it, no earlier. Out of bounds is for the address sanitizer
// to see. Not seen: races between two barriers that threads would lose only by taking turns within a stretch without
// one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include <math.h>  // kernels take names from no namespace

namespace threads {

inline dim3 thread_index, block_index, grid_size;  // of the thread that runs
int lane();

struct Grid {
  dim3 size;
  unsigned block = 0;
  /// Bytes that the threads of a block share, spoilt before it begins. There are no others: kernels declare none, as
  /// what is declared would be left over from other blocks.
  std::size_t shared = 0;
  std::function<void()> kernel;
};
/// Runs a grid to its end. Of `next`, when there is one, which must be the grid of the next call, some blocks begin
/// before that and go on until they wait for earlier kernels.
void run_grid(const Grid& grid, const Grid* next);

void wait_for_earlier();
/// Whether one of the threads brought true.
bool wait_for_block(bool any = false);
/// All lanes of the warp have come; the last of them has called `work` first. `what`: the instruction.
void wait_for_warp(const char* what, const std::function<void()>& work = {});
std::uint8_t* shared_memory();
/// 32 words that a warp's lanes exchange between one of its instructions and the next.
std::uint32_t* exchange();
/// One for each lane, for `work` to find.
const void** operands();

void require_aligned(const void* at, std::size_t bytes);
void copy_async(void* to, const void* from);  // 16 bytes, in the present group
void close_group();
void wait_groups(std::size_t newest);

// Barriers in shared memory, 8 bytes each, and copies of any length that arrive at one.
void init_barrier(std::uint64_t* barrier, unsigned count);
/// One of those that a phase takes has come, and says that so many bytes more belong to it.
void arrive(std::uint64_t* barrier, std::size_t bytes = 0);
/// Until the phase of this parity is over.
void wait_for_phase(const std::uint64_t* barrier, unsigned parity);
void copy_bulk(void* to, const void* from, std::size_t bytes, std::uint64_t* barrier);

/// An address as instructions that take shared memory's own see it, and back.
std::uint32_t shared_address(const void* at);
const std::uint8_t* shared_at(std::uint32_t address, std::size_t bytes);

/// What instructions that go on by themselves keep for the warp; gone with the block, which must be when none is under
/// way.
struct WarpState {
  virtual ~WarpState() = default;
  virtual bool under_way() const = 0;
};
std::unique_ptr<WarpState>& warp_state();
/// True or false, as a card might do things now or later.
bool toss();
[[noreturn]] void fail(const std::string& what);

}  // namespace threads

#undef __shared__
#define __shared__ kernels_declare_nothing_shared
#undef __global__
#define __global__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#define threadIdx ::threads::thread_index
#define blockIdx ::threads::block_index
#define gridDim ::threads::grid_size

inline void __syncthreads() { threads::wait_for_block(); }
inline int __syncthreads_or(int any) { return threads::wait_for_block(any != 0); }
inline void __syncwarp() { threads::wait_for_warp("__syncwarp"); }
inline void __threadfence() {}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  static_assert(sizeof(T) <= 8);
  if (mask != ~0u) std::abort();
  T result;
  for (std::size_t word = 0; word < sizeof(T); word += 4) {
    std::uint32_t* const words = threads::exchange();
    std::memcpy(words + threads::lane(), reinterpret_cast<const char*>(&value) + word, 4);
    threads::wait_for_warp("__shfl_xor_sync");
    std::memcpy(reinterpret_cast<char*>(&result) + word, words + (threads::lane() ^ step), 4);
  }
  return result;
}
inline std::uint32_t __reduce_max_sync(unsigned mask, std::uint32_t value) {
  for (int step = 16; step > 0; step /= 2) {
    const std::uint32_t other = __shfl_xor_sync(mask, value, step);
    value = value > other ? value : other;
  }
  return value;
}
inline std::uint32_t __float_as_uint(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
T atomicAdd(T* at, int value) {
  const T before = *at;
  *at += static_cast<T>(value);
  return before;
}
template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename T>
T __ldcg(const T* from) {
  return *from;
}
template <typename T>
T min(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
