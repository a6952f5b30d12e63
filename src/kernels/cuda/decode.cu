#include "kernels/cuda/decode.h"

#include "kernels/cuda/host_device.h"

#include <cuda_fp16.h>

namespace scalebits::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kLanes;
constexpr int kMostHeadDim = 256;

__device__ float warp_sum(float value) {
  for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}
__device__ float warp_largest(float value) {
  for (int step = kLanes / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

/// Of all threads, in a fixed tree.
__device__ float block_sum(float value) {
  __shared__ float sums[kWarps];
  value = warp_sum(value);
  __syncthreads();  // the last call's have been read
  if (threadIdx.x % kLanes == 0) sums[threadIdx.x / kLanes] = value;
  __syncthreads();
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

__global__ void __launch_bounds__(kThreads) norm(const __grid_constant__ NormArgs args) {
  const std::int64_t row = std::int64_t{blockIdx.x} * args.width;
  float* x = args.x + row;
  float sum = 0;
  for (int i = threadIdx.x; i < args.width; i += kThreads) {
    if (args.delta != nullptr) x[i] += args.delta[row + i];
    sum += args.bias != nullptr ? x[i] : 0;
  }
  const float mean = args.bias != nullptr ? block_sum(sum) / args.width : 0;
  float squares = 0;
  for (int i = threadIdx.x; i < args.width; i += kThreads) squares += (x[i] - mean) * (x[i] - mean);
  const float factor = 1 / sqrtf(block_sum(squares) / args.width + args.eps);
  for (int i = threadIdx.x; i < args.width; i += kThreads)
    args.out[row + i] = (x[i] - mean) * factor * args.weight[i] + (args.bias != nullptr ? args.bias[i] : 0);
}

__global__ void __launch_bounds__(kThreads) activate(float* gate, const float* up, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const float value = gate[i];
  if (up != nullptr)
    gate[i] = value / (1 + expf(-value)) * up[i];
  else
    gate[i] = value < 0 ? 0 : value;  // NaN stays NaN
}

/// One warp a head of a token: q's heads, then k's, then v's.
__global__ void __launch_bounds__(kThreads) rotate_and_store(const __grid_constant__ AttentionArgs args) {
  __shared__ float rows[kWarps][kMostHeadDim];
  const int per_token = args.heads + 2 * args.kv_heads, lane = threadIdx.x % kLanes;
  const int index = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kLanes;
  if (index >= args.tokens * per_token) return;
  const int token = index / per_token, head = index % per_token, dim = args.head_dim;
  const bool is_q = head < args.heads, is_k = !is_q && head < args.heads + args.kv_heads;
  const int kv_head = is_q ? 0 : (head - args.heads) % args.kv_heads;
  const std::int64_t at = std::int64_t{token} * args.kv_heads * dim + kv_head * dim;
  float* const q = args.q + (std::int64_t{token} * args.heads + head) * dim;
  const float* from = is_q ? q : is_k ? args.k + at : args.v + at;
  float* row = rows[threadIdx.x / kLanes];
  const std::int64_t position = args.positions[token];

  float squares = 0;
  for (int i = lane; i < dim; i += kLanes) squares += from[i] * from[i];
  const float* weight = is_q ? args.q_norm : is_k ? args.k_norm : nullptr;
  const float factor = weight != nullptr ? 1 / sqrtf(warp_sum(squares) / dim + args.eps) : 1;
  for (int i = lane; i < dim; i += kLanes) row[i] = weight != nullptr ? from[i] * factor * weight[i] : from[i];
  __syncwarp();
  if ((is_q || is_k) && args.cosines != nullptr) {
    const int half = dim / 2;
    for (int i = lane; i < half; i += kLanes) {
      const float cosine = args.cosines[position * half + i], sine = args.sines[position * half + i];
      const float first = row[i], second = row[i + half];
      row[i] = first * cosine - second * sine;
      row[i + half] = second * cosine + first * sine;
    }
    __syncwarp();
  }
  if (is_q) {
    for (int i = lane; i < dim; i += kLanes) q[i] = row[i];
    return;
  }
  const std::int64_t slot = kv_head * args.cache.capacity + position;
  void* to = is_k ? args.cache.keys : args.cache.values;
  if (args.cache.key_scales == nullptr) {
    for (int i = lane; i < dim; i += kLanes) static_cast<__half*>(to)[slot * dim + i] = __float2half_rn(row[i]);
    return;
  }
  float largest = 0;
  for (int i = lane; i < dim; i += kLanes) largest = fmaxf(largest, fabsf(row[i]));
  largest = warp_largest(largest);
  const float inverse = largest > 0 ? 127 / largest : 0;
  for (int i = lane; i < dim; i += kLanes)
    static_cast<std::int8_t*>(to)[slot * dim + i] = static_cast<std::int8_t>(__float2int_rn(row[i] * inverse));
  if (lane == 0) (is_k ? args.cache.key_scales : args.cache.value_scales)[slot] = largest / 127;
}

template <bool eight_bits>
__device__ float cached(const void* values, std::int64_t at) {
  if constexpr (eight_bits) return static_cast<const std::int8_t*>(values)[at];
  return __half2float(static_cast<const __half*>(values)[at]);
}

/// Of a token, head and span: largest score, sum of the exponentials, sum of the weighted values.
__device__ float* part_of(const AttentionArgs& args, int token, int head, int span, int spans) {
  return args.parts + ((std::int64_t{token} * args.heads + head) * spans + span) * (args.head_dim + 2);
}

/// One block a head, a token and a span of positions.
template <bool eight_bits>
__global__ void __launch_bounds__(kThreads) attend_span(const __grid_constant__ AttentionArgs args) {
  static_assert(kThreads == kAttentionSpan);
  __shared__ float scores[kAttentionSpan], largest_of[kWarps];
  __shared__ float q[kMostHeadDim];
  const int head = static_cast<int>(blockIdx.x), token = static_cast<int>(blockIdx.y),
            span = static_cast<int>(blockIdx.z);
  const int first = span * kAttentionSpan, count = min(args.positions[token] + 1 - first, kAttentionSpan);
  if (count <= 0) return;
  const int dim = args.head_dim, lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int kv_head = head / (args.heads / args.kv_heads);
  const std::int64_t slot = kv_head * args.cache.capacity + first;
  const float scale = 1 / sqrtf(static_cast<float>(dim));
  if (static_cast<int>(threadIdx.x) < dim)
    q[threadIdx.x] = args.q[(std::int64_t{token} * args.heads + head) * dim + threadIdx.x] * scale;
  __syncthreads();

  float largest = -INFINITY;
  for (int i = warp; i < count; i += kWarps) {
    float sum = 0;
    for (int d = lane; d < dim; d += kLanes) sum += q[d] * cached<eight_bits>(args.cache.keys, (slot + i) * dim + d);
    sum = warp_sum(sum);
    if constexpr (eight_bits) sum *= args.cache.key_scales[slot + i];
    if (lane == 0) scores[i] = sum;
    largest = fmaxf(largest, sum);
  }
  if (lane == 0) largest_of[warp] = largest;
  __syncthreads();
  for (const float other : largest_of) largest = fmaxf(largest, other);
  float weight = 0;
  if (static_cast<int>(threadIdx.x) < count) weight = expf(scores[threadIdx.x] - largest);
  const float total = block_sum(weight);  // a barrier: scores have been read
  if constexpr (eight_bits)
    if (static_cast<int>(threadIdx.x) < count) weight *= args.cache.value_scales[slot + threadIdx.x];
  scores[threadIdx.x] = weight;
  __syncthreads();
  float* part = part_of(args, token, head, span, gridDim.z);
  if (static_cast<int>(threadIdx.x) < dim) {
    float sum = 0;
    for (int i = 0; i < count; ++i)
      sum += scores[i] * cached<eight_bits>(args.cache.values, (slot + i) * dim + threadIdx.x);
    part[2 + threadIdx.x] = sum;
  }
  if (threadIdx.x == 0) {
    part[0] = largest;
    part[1] = total;
  }
}

/// Spans of a token and head, in order.
__global__ void __launch_bounds__(kMostHeadDim) merge_spans(const __grid_constant__ AttentionArgs args, int spans) {
  const int head = static_cast<int>(blockIdx.x), token = static_cast<int>(blockIdx.y),
            d = static_cast<int>(threadIdx.x);
  const int count = args.positions[token] / kAttentionSpan + 1;
  float largest = -INFINITY, total = 0, sum = 0;
  for (int span = 0; span < count; ++span) largest = fmaxf(largest, part_of(args, token, head, span, spans)[0]);
  for (int span = 0; span < count; ++span) {
    const float* part = part_of(args, token, head, span, spans);
    const float factor = expf(part[0] - largest);
    total += factor * part[1];
    if (d < args.head_dim) sum += factor * part[2 + d];
  }
  if (d < args.head_dim) args.out[(std::int64_t{token} * args.heads + head) * args.head_dim + d] = sum / total;
}

unsigned blocks_for(std::int64_t count, int per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace

void launch_norm(const NormArgs& args, cudaStream_t stream) {
  norm<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
}

void launch_activation(float* gate, const float* up, std::int64_t count, cudaStream_t stream) {
  activate<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(gate, up, count);
}

void launch_rotate_and_store(const AttentionArgs& args, cudaStream_t stream) {
  const std::int64_t heads = std::int64_t{args.tokens} * (args.heads + 2 * args.kv_heads);
  rotate_and_store<<<blocks_for(heads, kWarps), kThreads, 0, stream>>>(args);
}

void launch_attention(const AttentionArgs& args, cudaStream_t stream) {
  const unsigned spans = blocks_for(args.cache.capacity, kAttentionSpan);
  const dim3 grid(static_cast<unsigned>(args.heads), static_cast<unsigned>(args.tokens), spans);
  if (args.cache.key_scales != nullptr)
    attend_span<true><<<grid, kThreads, 0, stream>>>(args);
  else
    attend_span<false><<<grid, kThreads, 0, stream>>>(args);
  merge_spans<<<dim3(grid.x, grid.y), kMostHeadDim, 0, stream>>>(args, static_cast<int>(spans));
}

}  // namespace scalebits::cuda
