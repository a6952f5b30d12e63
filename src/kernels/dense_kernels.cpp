// The table of dense kernels, and the portable half of each: scratch, and a call in plain numbers.
#include "kernels/cpu/dense_calls.h"
#include "kernels/kernel.h"

namespace scalebits {
namespace {

DenseElement element_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return DenseElement::f32;
    case DType::f16: return DenseElement::f16;
    case DType::bf16: return DenseElement::bf16;
  }
  SCALEBITS_ASSERT(false);
}

template <void (*kBody)(const DenseCall&)>
void run_dense(const DenseTask& task) {
  const DenseWeights& weights = *task.weights;
  SCALEBITS_ASSERT(weights.bytes.size() ==
                   static_cast<std::size_t>(weights.rows * weights.cols) * size_bytes(weights.dtype));
  SCALEBITS_ASSERT(task.first_row >= 0 && task.last_row <= weights.rows);
  DenseCall call{.element = element_of(weights.dtype),
                 .weights = weights.bytes.data(),
                 .cols = weights.cols,
                 .first_row = task.first_row,
                 .last_row = task.last_row,
                 .x = task.x,
                 .x_rows = task.x_rows,
                 .x_stride = task.x_stride,
                 .y = task.y,
                 .y_stride = task.y_stride};
  if (task.x_rows > kDenseFewRows) {
    constexpr std::int64_t kPanel = kDensePanelRows * kDensePanelCols;
    constexpr std::int64_t kSums = kDensePanelRows * kDenseBlockRows * 16;
    thread_local AlignedBuffer<float> scratch;
    scratch.reserve(static_cast<std::size_t>(kPanel + kSums + kDenseBlockRows * ((weights.cols + 15) / 16 * 16)));
    call.w_panel = scratch.data();
    call.sums = call.w_panel + kPanel;
    call.x_block = call.sums + kSums;
  }
  kBody(call);
}

constexpr DenseKernel kKernels[] = {{"dense avx512", Isa::avx512_vnni, &run_dense<dense_avx512>},
                                    {"dense avx2", Isa::avx2, &run_dense<dense_avx2>},
                                    {"dense scalar", Isa::scalar, &run_dense<dense_scalar>}};

}  // namespace

std::span<const DenseKernel> dense_kernels() { return kKernels; }

}  // namespace scalebits
