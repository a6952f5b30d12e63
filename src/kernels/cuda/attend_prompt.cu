// Attend (attend.h) for a prompt's tokens, on the tensor cores, with a running maximum as FlashAttention has it: a
// block takes 64 tokens of a query head, 16 a warp, and goes over the positions in stretches of 64. Values of a stretch
// are on their way while scores are made of its keys, the next keys while values are summed up. Queries and
// probabilities are rounded to f16, keys and values of 8 bits multiplied by their scales and rounded to f16; sums are
// f32.
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/start.h"

#include <cuda_fp16.h>

#include <cfloat>

namespace scalebits::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kLanes, kTokens = 16 * kWarps, kStretch = 64;

template <int kDim>
struct Prompt {
  static constexpr int kWords = kDim / 2, kStride = kWords + 4;  // of two f16; neighbouring rows lie in other banks
  static constexpr int kSteps = kDim / 16, kChunks = kDim / 8;   // of mma's inputs; of 16 bytes
  struct alignas(16) Shared {
    std::uint32_t keys[kStretch * kStride], values[kStretch * kStride];
  };

  const Attend& attend;
  Shared& shared;
  const int head = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first_row = static_cast<int>(blockIdx.y) * kTokens + static_cast<int>(threadIdx.x) / kLanes * 16;
  const TokenState state = attend.states[0];
  const CachePlane keys{state, attend.shape, attend.layer, 0}, values{state, attend.shape, attend.layer, 1};
  const std::int64_t first_slot = std::int64_t{head / attend.group()} * state.capacity;

  /// Token of half 0 or 1 of the lane's rows.
  __device__ int token(int half) const { return first_row + lane / 4 + 8 * half; }
  __device__ static std::uint32_t two_halves(float low, float high) {
    return __half_as_ushort(__float2half_rn(low)) | std::uint32_t{__half_as_ushort(__float2half_rn(high))} << 16;
  }

  __device__ void load_queries(std::uint32_t (&q)[kSteps][4]) const {
    const float scale = 1 / sqrtf(static_cast<float>(kDim));
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int channel = 16 * step + 8 * (r / 2) + 2 * (lane % 4);
        float2 two = make_float2(0, 0);
        if (token(r % 2) < attend.tokens)
          two = *reinterpret_cast<const float2*>(attend.q + (std::int64_t{token(r % 2)} * attend.heads + head) * kDim +
                                                 channel);
        q[step][r] = two_halves(two.x * scale, two.y * scale);
      }
  }

  /// Asks for the stretch of keys or values from position `first` on; what lies beyond `count` becomes zeros.
  __device__ void fetch(const CachePlane& plane, int first, int count, std::uint32_t* to) const {
    for (int i = static_cast<int>(threadIdx.x); i < kStretch * kChunks; i += kThreads) {
      const int p = i / kChunks, chunk = i % kChunks;
      uint4* const at = reinterpret_cast<uint4*>(to + p * kStride + chunk * 4);
      const std::int64_t slot = first_slot + first + p;
      if (p >= count) {
        *at = make_uint4(0, 0, 0, 0);
      } else if (state.eight_bits != 0) {
        const uint2 eight = *reinterpret_cast<const uint2*>(plane.elements + slot * kDim + chunk * 8);
        const float scale = plane.scales[slot];
        const auto two = [&](std::uint32_t word, int shift) {
          return two_halves(static_cast<float>(static_cast<std::int8_t>(word >> shift)) * scale,
                            static_cast<float>(static_cast<std::int8_t>(word >> (shift + 8))) * scale);
        };
        *at = make_uint4(two(eight.x, 0), two(eight.x, 16), two(eight.y, 0), two(eight.y, 16));
      } else {
        copy_async(at, plane.elements + (slot * kDim + chunk * 8) * 2);
      }
    }
    close_group();
  }

  /// scores[n]: of positions 8n … 8n + 7 of the stretch, as mma leaves them.
  __device__ void score(const std::uint32_t (&q)[kSteps][4], float (&scores)[kStretch / 8][4]) const {
#pragma unroll
    for (int n = 0; n < kStretch / 8; ++n) {
      scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0;
      const std::uint32_t* const key = shared.keys + (8 * n + lane / 4) * kStride + lane % 4;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) multiply_add(scores[n], q[step], key[8 * step], key[8 * step + 4]);
    }
  }

  struct Row {
    float largest = -FLT_MAX, total = 0;
  };

  /// scores → probabilities up to a factor, exp(score − largest); what was summed up before is rescaled.
  __device__ void soften(float (&scores)[kStretch / 8][4], int first, Row (&rows)[2], float (&out)[kDim / 8][4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own = state.position + token(half), least = attend.first_seen(own) - first, most = own - first;
      float largest = rows[half].largest;
#pragma unroll
      for (int n = 0; n < kStretch / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int p = 8 * n + lane % 4 * 2 + i;
          float& now = scores[n][2 * half + i];
          if (p < least || p > most) now = -FLT_MAX;
          largest = fmaxf(largest, now);
        }
      for (int step = 1; step <= 2; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
      const float factor = expf(rows[half].largest - largest);
      float total = 0;
#pragma unroll
      for (int n = 0; n < kStretch / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& now = scores[n][2 * half + i];
          now = now == -FLT_MAX ? 0 : expf(now - largest);
          total += now;
        }
      rows[half].total = rows[half].total * factor + total;
      rows[half].largest = largest;
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) out[d][2 * half] *= factor, out[d][2 * half + 1] *= factor;
    }
  }

  __device__ void add_values(const float (&p)[kStretch / 8][4], float (&out)[kDim / 8][4]) const {
#pragma unroll
    for (int step = 0; step < kStretch / 16; ++step) {
      const float *const near = p[2 * step], *const far = p[2 * step + 1];
      const std::uint32_t weights[4] = {two_halves(near[0], near[1]), two_halves(near[2], near[3]),
                                        two_halves(far[0], far[1]), two_halves(far[2], far[3])};
#pragma unroll
      for (int d = 0; d < kDim / 8; d += 2) {
        // Four matrices of 8 x 8: positions 0-7 and 8-15 of the step, of channels 8d … and of the next 8.
        std::uint32_t value[4];
        const int row = 16 * step + lane % 16, channels = 8 * d + lane / 16 * 8;
        load_transposed(value, shared.values + row * kStride + channels / 2);
        multiply_add(out[d], weights, value[0], value[1]);
        multiply_add(out[d + 1], weights, value[2], value[3]);
      }
    }
  }

  __device__ void compute() const {
    const int tokens = min(attend.tokens - static_cast<int>(blockIdx.y) * kTokens, kTokens);
    const int first_own = state.position + static_cast<int>(blockIdx.y) * kTokens;
    const int begin = attend.first_seen(first_own), end = first_own + tokens;
    std::uint32_t q[kSteps][4];
    fetch(keys, begin, min(end - begin, kStretch), shared.keys);
    load_queries(q);
    Row rows[2];
    float out[kDim / 8][4] = {};
    for (int first = begin; first < end; first += kStretch) {
      wait_groups<0>();
      __syncthreads();  // keys are there, the values before have been read
      fetch(values, first, min(end - first, kStretch), shared.values);
      float scores[kStretch / 8][4];
      score(q, scores);
      soften(scores, first, rows, out);
      wait_groups<0>();
      __syncthreads();  // values are there, the keys have been read
      if (const int next = first + kStretch; next < end) fetch(keys, next, min(end - next, kStretch), shared.keys);
      add_values(scores, out);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = rows[half].total;
      for (int step = 1; step <= 2; step *= 2) total += __shfl_xor_sync(~0u, total, step);
      if (token(half) >= attend.tokens) continue;
      const float inverse = 1 / total;
      auto* const to = reinterpret_cast<std::uint32_t*>(
          attend.out + (std::int64_t{token(half)} * attend.heads + head) * kDim + 2 * (lane % 4));
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d)
        to[4 * d] = two_halves(out[d][2 * half] * inverse, out[d][2 * half + 1] * inverse);
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads) attend_prompt(const __grid_constant__ Attend attend) {
  let_next_begin();
  wait_for_earlier();
  using Work = Prompt<kDim>;
  Work{attend, *reinterpret_cast<typename Work::Shared*>(shared_memory())}.compute();
}

template <int kDim>
cudaError_t launch(const Attend& attend, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(attend.heads), static_cast<unsigned>(divide_up(attend.tokens, kTokens)));
  return start(attend_prompt<kDim>, grid, kThreads, sizeof(typename Prompt<kDim>::Shared), stream, attend);
}

}  // namespace

bool is_prompt(const Attend& attend) {
  // Fewer rows leave most of a block's warps without work.
  return attend.one_sequence && attend.tokens > 16 && (attend.shape.head_dim == 64 || attend.shape.head_dim == 128);
}

cudaError_t launch_attend_prompt(const Attend& attend, cudaStream_t stream) {
  return attend.shape.head_dim == 64 ? launch<64>(attend, stream) : launch<128>(attend, stream);
}

}  // namespace scalebits::cuda
