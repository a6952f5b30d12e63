#include "kernels/cuda/packed_matrix.h"

#include "core/error.h"

namespace scalebits {

cuda::StoredShape stored_shape(const MatrixFormat& format) {
  return {.rows = format.rows,
          .cols = format.cols,
          .block_rows = format.block_rows,
          .block_cols = format.block_cols,
          .group_cols = format.group_cols,
          .scale_bits = format.side.scale_bits,
          .zero_bits = format.side.zero_bits,
          .scale_base = format.side.scale_base,
          .scale_step_log2 = format.side.scale_step_log2,
          .zero_range = format.side.zero_range};
}

cuda::StoredMatrix stored_matrix(const PackedWeights& weights) {
  return {.shape = stored_shape(weights.format()),
          .widths = weights.matrix().widths(),
          .blob = weights.matrix().blob(),
          .row_order = weights.row_order(),
          .input_order = weights.input_order()};
}

std::vector<cuda::Card> require_cards() {
  try {
    return cuda::cards();
  } catch (const cuda::CardError& error) {
    fail(ErrorKind::unsupported_hardware, "{}", error.what());
  }
}

}  // namespace scalebits
