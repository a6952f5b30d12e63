// The kernels, as the engine launches them. For files that see the toolkit's headers. A launch returns its own status.
#pragma once

#include "kernels/cuda/operations.h"
#include "kernels/cuda/product_args.h"

#include <cuda_runtime.h>

#include <cstddef>

namespace scalebits::cuda {

struct ProductKernel {
  const char* name;
  int token_blocks;             // of 8 tokens: for how many it is made
  int warps;                    // of a thread block
  bool gathers;                 // reads one token as it is given (InputView), and nothing that was prepared
  std::size_t shared_bytes;     // and, when it gathers, kGatheredBytes for each cell of a block, at most all of a panel
  void (*run[2])(ProductArgs);  // for 1 and 2 groups a cell
};

/// By the number of tokens, smallest first; the first gathers.
inline constexpr int kSmallBatchKernels = 4;
const ProductKernel* small_batch_kernels();

/// For longer prompts: a grid of tiles of results, [rows, columns, splits of the inputs].
inline constexpr int kPromptTokens = 128;  // of a tile; activations are prepared for a multiple of them
struct PromptKernel {
  const char* name;
  int panels;      // of a tile
  bool by_tokens;  // the order of the activations that it reads (prepared_layout.h); weights become f16 numbers
  int threads;
  std::size_t shared_bytes;
  void (*run[2])(ProductArgs, int splits);  // for 1 and 2 groups a cell

  /// Of a tile's partial sums.
  std::uint64_t tile_bytes() const {
    return sizeof(float) * kPanelRows * kPromptTokens * static_cast<std::uint64_t>(panels);
  }
};
/// On every card.
const PromptKernel& prompt_kernel();
/// On cards of compute capability 9.0; null where it was not built.
const PromptKernel* hopper_prompt_kernel();
struct PromptGrid {
  unsigned rows = 0, columns = 0;
  int splits = 1;
  std::uint64_t tiles = 0, sum_bytes = 0;  // counters, and bytes of partial sums that it needs
};
/// `blocks`: of 8 tokens. Inputs are only split while tiles and splits together are no more than multiprocessors.
PromptGrid prompt_grid(const PromptKernel& kernel, std::uint32_t panels, std::uint32_t cells, int blocks,
                       int multiprocessors);

cudaError_t launch_operation(const Operation& operation, cudaStream_t stream);

/// Attend of a prompt's tokens, on the tensor cores. Whether it takes this one:
bool is_prompt(const Attend& attend);
cudaError_t launch_attend_prompt(const Attend& attend, cudaStream_t stream);

/// Stored tiles → records of the stream. `tiles` [count], their places in the stream `records` [count] bytes.
struct RepackArgs {
  StoredShape shape;
  const std::uint8_t* blob = nullptr;
  const StoredTile* tiles = nullptr;
  const std::uint64_t* records = nullptr;
  std::int64_t count = 0;
  std::uint8_t* stream = nullptr;
};
cudaError_t launch_repack(const RepackArgs& args, cudaStream_t stream);

/// x [tokens, x_stride] of `type` in original order → prepared activations (prepared_layout.h) of `blocks` blocks.
/// `factors` [8·blocks] is written unless the type is f16.
struct PrepareArgs {
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  ElementType type = ElementType::f16;
  const float* maxima = nullptr;  // [tokens, maxima_count] of pieces of x; null: find them
  int maxima_count = 0;
  int tokens = 0;
  int blocks = 0;
  std::int64_t inputs = 0;
  int groups = 1;
  const std::uint32_t* input_order = nullptr;  // null: identity
  bool by_tokens = false;                      // the order of values, without sums
  std::uint32_t* values = nullptr;
  float* sums = nullptr;
  float* factors = nullptr;
};
cudaError_t launch_prepare(const PrepareArgs& args, cudaStream_t stream);

/// The slow and obvious product, straight from the stored blob of one matrix, f64 sums: what fast kernels must match.
/// y [tokens, rows] f32 in original order of rows, of activations rounded as launch_prepare() rounds them.
struct ReferenceArgs {
  StoredShape shape;
  const std::uint8_t* blob = nullptr;
  const StoredTile* tiles = nullptr;
  const std::uint32_t* row_order = nullptr;
  const std::uint32_t* input_order = nullptr;
  const void* x = nullptr;
  std::int64_t x_stride = 0;
  ElementType type = ElementType::f16;
  int tokens = 0;
  float* y = nullptr;
  float* magnitude = nullptr;   // [tokens, rows]: Σ of the numbers that fast kernels add up, which roundings scale with
  float* half_error = nullptr;  // [tokens, rows]: what rounding weights to f16 may add (PromptKernel::by_tokens)
};
cudaError_t launch_reference(const ReferenceArgs& args, cudaStream_t stream);

}  // namespace scalebits::cuda
