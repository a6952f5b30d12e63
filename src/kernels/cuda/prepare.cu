// Activations → prepared activations (prepared_layout.h): gathered, rounded to f16, put in the order of fragments,
// summed up by groups. Done once for all matrices that read them. A second, earlier kernel finds the factors of tokens
// that are not f16. Sums of a group: each lane adds its 4 or 8 register pairs in order, then four lanes in a fixed
// tree.
#include "kernels/cuda/card.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/start.h"

namespace scalebits::cuda {
namespace {

constexpr int kThreads = 256;

template <ElementType type>
__global__ void __launch_bounds__(kThreads) find_factors(const __grid_constant__ PrepareArgs args) {
  let_next_begin();
  wait_for_earlier();
  auto* const largest_of = reinterpret_cast<float*>(shared_memory());
  const int token = static_cast<int>(blockIdx.x);
  float largest = 0;
  const std::int64_t count = args.maxima != nullptr ? args.maxima_count : args.inputs;
  for (std::int64_t i = threadIdx.x; token < args.tokens && i < count; i += kThreads) {
    const float value = args.maxima != nullptr ? args.maxima[token * count + i]
                                               : fabsf(element<type>(args.x, token * args.x_stride + i));
    largest = value > largest || isnan(value) ? value : largest;  // once NaN, no comparison is true
    if (isnan(value)) break;
  }
  const auto either = [](float a, float b) { return isnan(a) || a > b ? a : b; };
  for (int step = kLanes / 2; step > 0; step /= 2) largest = either(largest, __shfl_xor_sync(~0u, largest, step));
  if (threadIdx.x % kLanes == 0) largest_of[threadIdx.x / kLanes] = largest;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 0; warp < kThreads / kLanes; ++warp) largest = either(largest, largest_of[warp]);
  args.factors[token] = token_factor(largest);
}

/// One warp a cell and block of tokens.
template <ElementType type>
__global__ void __launch_bounds__(kThreads) prepare(const __grid_constant__ PrepareArgs args) {
  let_next_begin();
  wait_for_earlier();
  const std::int64_t cells = (args.inputs + kCellCols - 1) / kCellCols;
  const std::int64_t index = std::int64_t{blockIdx.x} * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (index >= cells * args.blocks) return;
  const std::int64_t cell = index / args.blocks;
  const int block = static_cast<int>(index % args.blocks), lane = static_cast<int>(threadIdx.x) % kLanes;
  const int token = block * kTokenBlock + activation_token(lane);
  float inverse = 1;
  if (type != ElementType::f16 && token < args.tokens) inverse = 1 / args.factors[token];

  std::uint32_t registers[kBlockRegisters];
  float sums[2] = {};
#pragma unroll
  for (int reg = 0; reg < kBlockRegisters; ++reg) {
    registers[reg] = 0;
#pragma unroll
    for (int second = 0; second < 2; ++second) {
      const std::int64_t input = cell * kCellCols + activation_input(lane, reg) + second;
      if (token >= args.tokens || input >= args.inputs) continue;
      const std::int64_t at = args.input_order != nullptr ? args.input_order[input] : input;
      const __half value = Element<type>::at(args.x, token * args.x_stride + at).rounded(inverse);
      registers[reg] |= std::uint32_t{__half_as_ushort(value)} << (16 * second);
      sums[reg / 4] += __half2float(value);
    }
  }
  if (args.by_tokens) {
#pragma unroll
    for (int reg = 0; reg < kBlockRegisters; ++reg)
      args.values[by_tokens_index(cell, token, args.blocks * kTokenBlock, activation_input(lane, reg) / 2)] =
          registers[reg];
    return;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half)
    *reinterpret_cast<uint4*>(args.values + fragment_index(cell, block, args.blocks, lane, 4 * half)) =
        make_uint4(registers[4 * half], registers[4 * half + 1], registers[4 * half + 2], registers[4 * half + 3]);
  if (args.groups == 1) sums[0] += sums[1];
#pragma unroll
  for (int group = 0; group < 2; ++group) {
    for (int step = 1; step <= 2; step *= 2) sums[group] += __shfl_xor_sync(~0u, sums[group], step);
    if (group < args.groups && lane % 4 == 0)
      args.sums[sum_index(cell, group, args.groups, token, args.blocks * kTokenBlock)] = sums[group];
  }
}

template <ElementType type>
cudaError_t launch(const PrepareArgs& args, cudaStream_t stream) {
  if constexpr (type != ElementType::f16) {
    const dim3 tokens(static_cast<unsigned>(args.blocks * kTokenBlock));
    const cudaError_t status =
        start(find_factors<type>, tokens, kThreads, kThreads / kLanes * sizeof(float), stream, args);
    if (status != cudaSuccess) return status;
  }
  const std::int64_t warps = (args.inputs + kCellCols - 1) / kCellCols * args.blocks;
  constexpr std::int64_t kWarps = kThreads / kLanes;
  return start(prepare<type>, dim3(static_cast<unsigned>((warps + kWarps - 1) / kWarps)), kThreads, 0, stream, args);
}

}  // namespace

cudaError_t launch_prepare(const PrepareArgs& args, cudaStream_t stream) {
  switch (args.type) {
    case ElementType::f32: return launch<ElementType::f32>(args, stream);
    case ElementType::f16: return launch<ElementType::f16>(args, stream);
    case ElementType::bf16: return launch<ElementType::bf16>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace scalebits::cuda
