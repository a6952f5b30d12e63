// The operations between products as kernels: all there is to them but their own code.
#include "kernels/cuda/card_block.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/start.h"

namespace scalebits::cuda {
namespace {

template <typename Op>
__global__ void __launch_bounds__(Op::kThreads) run(const __grid_constant__ Op operation) {
  let_next_begin();
  wait_for_earlier();
  CardBlock block{static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
  operation.run(block, *reinterpret_cast<typename Op::Shared*>(shared_memory()));
}

}  // namespace

cudaError_t launch_operation(const Operation& operation, cudaStream_t stream) {
  return std::visit(
      [&]<typename Op>(const Op& op) {
        const Grid grid = op.grid();
        return start(run<Op>, dim3(grid.x, grid.y, grid.z), Op::kThreads, sizeof(typename Op::Shared), stream, op);
      },
      operation);
}

}  // namespace scalebits::cuda
