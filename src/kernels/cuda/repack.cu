// Stored order → the stream, on the card, once when a matrix is loaded: one warp a tile, straight by device_layout.h.
#include "kernels/cuda/card.cuh"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/start.h"

namespace scalebits::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) repack(const __grid_constant__ RepackArgs args) {
  let_next_begin();
  wait_for_earlier();
  const std::int64_t index = std::int64_t{blockIdx.x} * (kThreads / kLanes) + threadIdx.x / kLanes;
  if (index >= args.count) return;
  repack_tile(args.shape, args.blob, args.tiles[index], static_cast<int>(threadIdx.x) % kLanes,
              reinterpret_cast<std::uint32_t*>(args.stream + args.records[index]));
}

}  // namespace

cudaError_t launch_repack(const RepackArgs& args, cudaStream_t stream) {
  constexpr std::int64_t kTiles = kThreads / kLanes;
  if (args.count == 0) return cudaSuccess;
  return start(repack, dim3(static_cast<unsigned>((args.count + kTiles - 1) / kTiles)), kThreads, 0, stream, args);
}

}  // namespace scalebits::cuda
