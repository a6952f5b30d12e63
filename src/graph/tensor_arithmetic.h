// The arithmetic of the passes in plain tensor operations, for tensors on any device that torch has: what the host's
// row kernels do, with the same roundings of operands, but for the order of sums. Each function works in pieces, so
// that its temporaries stay within kTensorTemporaryBytes whatever the batch. No operation adds with atomics, so two
// runs on one device give the same bits.
#pragma once

#include "graph/arithmetic.h"

#include <algorithm>
#include <cstdint>

namespace scalebits {

const Arithmetic& tensor_arithmetic();

/// The place whose tensors lie on `device` and are worked on by tensor_arithmetic(). With the CPU as the device it is
/// the card's path on this machine's processor, for tests.
ComputePlace tensor_place(at::Device device);

/// Elements of f32 temporaries: small where each is read once or twice, so that a card's cache holds them; larger for
/// attention's scores and larger still for operands that are widened, since products of few rows are slow.
inline constexpr std::int64_t kTensorPiece = std::int64_t{1} << 22;
inline constexpr std::int64_t kScoresPiece = 4 * kTensorPiece, kOperandPiece = 8 * kTensorPiece;
/// What the temporaries of one operation take at most, beside the tensors it is given: attention's backward has some
/// six pieces of scores, a product one of operands, an elementwise operation a dozen small ones.
inline constexpr std::uint64_t kTensorTemporaryBytes = std::uint64_t{512} << 20;

/// body(first, count) over rows in runs of at most `piece` elements and at least one row.
template <typename Body>
void for_row_pieces(std::int64_t rows, std::int64_t row_elements, std::int64_t piece, Body&& body) {
  const std::int64_t step = std::max<std::int64_t>(1, piece / std::max<std::int64_t>(1, row_elements));
  for (std::int64_t first = 0; first < rows; first += step) body(first, std::min(step, rows - first));
}

/// While one lives, products of f32 tensors on a card may use TF32 if `operands_are_bf16`: bf16 numbers are TF32
/// numbers, so nothing is rounded but sums, which are f32. Otherwise they are f32 throughout.
class ProductPrecision {
 public:
  explicit ProductPrecision(bool operands_are_bf16);
  ~ProductPrecision();
  ProductPrecision(const ProductPrecision&) = delete;
  ProductPrecision& operator=(const ProductPrecision&) = delete;

 private:
  bool before_;
};

/// The functions of the table that are long enough for files of their own.
namespace tensors {
void attend(const Attention& tensors);
void attend_backward(const Attention& tensors, const AttentionGradient& gradient);
void token_losses(const LogitRows& rows, std::span<float> losses, std::span<std::uint8_t> same_top);
void look_up(const at::Tensor& table, const at::Tensor& ids, const at::Tensor& rows);
void add_embedding_gradient(const at::Tensor& ids, const at::Tensor& rows, bool squared, const at::Tensor& table);
}  // namespace tensors

}  // namespace scalebits
