// The slow and obvious product: one warp for each result, weights decoded one by one from the stored blob by the
// format's own words, f64 sums. Shares nothing with the fast kernels but stored_tiles.h, so that it also checks the
// repacking.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/start.h"

namespace scalebits::cuda {
namespace {

constexpr int kThreads = 256;

struct Weight {
  double value, allowance;  // allowance: scale · (largest number that a fast kernel adds up for it)
  double half_error;        // of make_weights()
};

__device__ Weight weight_at(const ReferenceArgs& args, std::int64_t row, std::int64_t col) {
  const StoredShape& shape = args.shape;
  const StoredTile tile = args.tiles[row / kStoredTileRows * tile_col_count(shape) + col / kStoredTileCols];
  if (tile.width == 0) return {0, 0, 0};
  const int r = static_cast<int>(row % kStoredTileRows), c = static_cast<int>(col % kStoredTileCols);
  const double code = stored_code(args.blob + tile.codes, tile.width, r, c);
  const std::uint8_t* side = args.blob + tile.side + (shape.group_cols == 32 ? c / 32 * group_side_bytes(shape) : 0);
  const double levels = 1 << tile.width;
  const double scale = static_cast<double>(shape.scale_base) *
                       exp2(stored_side_code(side, shape.scale_bits, r) * static_cast<double>(shape.scale_step_log2)) /
                       (levels - 1);
  double zero = 0.5 * (levels - 1);
  if (shape.zero_bits > 0) {
    const double half = 1 << (shape.zero_bits - 1);
    zero += (stored_side_code(side + 2 * shape.scale_bits, shape.zero_bits, r) - half) *
            (static_cast<double>(shape.zero_range) * levels / half);
  }
  return {scale * (code - zero), scale * (fabs(zero) + code_offset(tile.width, 0) + levels),
          scale * (fabs(code - zero) / 1024 + 1.0 / 2048)};
}

template <ElementType type>
__device__ double value_at(const ReferenceArgs& args, int token, std::int64_t input, float factor) {
  return static_cast<double>(
             __half2float(Element<type>::at(args.x, token * args.x_stride + input).rounded(1 / factor))) *
         static_cast<double>(factor);
}

template <ElementType type>
__global__ void __launch_bounds__(kThreads) reference(const __grid_constant__ ReferenceArgs args) {
  let_next_begin();
  wait_for_earlier();
  const std::int64_t index = std::int64_t{blockIdx.x} * (kThreads / kLanes) + threadIdx.x / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::int64_t row = index % args.shape.rows;
  const int token = static_cast<int>(index / args.shape.rows);
  if (token >= args.tokens) return;
  float factor = 1;
  if constexpr (type != ElementType::f16) {
    float largest = 0;
    for (std::int64_t i = lane; i < args.shape.cols; i += kLanes)
      largest = fmaxf(largest, fabsf(element<type>(args.x, token * args.x_stride + i)));
    for (int step = kLanes / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    factor = token_factor(largest);
  }
  double sum = 0, magnitude = 0, half_error = 0;
  for (std::int64_t col = lane; col < args.shape.cols; col += kLanes) {
    const std::int64_t input = args.input_order != nullptr ? args.input_order[col] : col;
    const double x = value_at<type>(args, token, input, factor);
    const Weight weight = weight_at(args, row, col);
    sum += weight.value * x;
    magnitude += weight.allowance * fabs(x);
    half_error += weight.half_error * fabs(x);
  }
  for (int step = kLanes / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0u, sum, step);
    magnitude += __shfl_xor_sync(~0u, magnitude, step);
    half_error += __shfl_xor_sync(~0u, half_error, step);
  }
  if (lane != 0) return;
  const std::int64_t at = token * args.shape.rows + (args.row_order != nullptr ? args.row_order[row] : row);
  args.y[at] = static_cast<float>(sum);
  args.magnitude[at] = static_cast<float>(magnitude);
  args.half_error[at] = static_cast<float>(half_error);
}

}  // namespace

cudaError_t launch_reference(const ReferenceArgs& args, cudaStream_t stream) {
  const std::int64_t warps = args.shape.rows * args.tokens;
  constexpr std::int64_t kWarps = kThreads / kLanes;
  const dim3 blocks(static_cast<unsigned>((warps + kWarps - 1) / kWarps));
  switch (args.type) {
    case ElementType::f32: return start(reference<ElementType::f32>, blocks, kThreads, 0, stream, args);
    case ElementType::f16: return start(reference<ElementType::f16>, blocks, kThreads, 0, stream, args);
    case ElementType::bf16: return start(reference<ElementType::bf16>, blocks, kThreads, 0, stream, args);
  }
  return cudaErrorInvalidValue;
}

}  // namespace scalebits::cuda
