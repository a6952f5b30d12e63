// The engine's slow product, in a file of its own so that programs that check nothing do not hold its kernels.
#include "kernels/cuda/engine.h"
#include "kernels/cuda/launches.h"

namespace scalebits::cuda {
namespace {

template <typename Values>
CardBuffer on_card(Engine& engine, const Values& values) {
  if (values.empty()) return {};
  CardBuffer buffer(values.size() * sizeof(values[0]));
  engine.upload(buffer, values.data(), buffer.bytes());
  return buffer;
}

}  // namespace

void Engine::reference(const StoredMatrix& matrix, const CardInput& input, const CardBuffer& y,
                       const CardBuffer& magnitude, const CardBuffer& half_error) {
  const StoredTiles tiles = find_stored_tiles(matrix.shape, matrix.widths);
  const CardBuffer blob = on_card(*this, matrix.blob), places = on_card(*this, tiles.tiles),
                   rows = on_card(*this, matrix.row_order), columns = on_card(*this, matrix.input_order);
  const cudaError_t status = launch_reference({.shape = matrix.shape,
                                               .blob = blob.as<std::uint8_t>(),
                                               .tiles = places.as<StoredTile>(),
                                               .row_order = rows.as<std::uint32_t>(),
                                               .input_order = columns.as<std::uint32_t>(),
                                               .x = input.x,
                                               .x_stride = input.x_stride,
                                               .type = input.type,
                                               .tokens = input.tokens,
                                               .y = y.as<float>(),
                                               .magnitude = magnitude.as<float>(),
                                               .half_error = half_error.as<float>()},
                                              static_cast<cudaStream_t>(stream()));
  if (status != cudaSuccess) throw CardError(std::string("CUDA: the reference product: ") + cudaGetErrorString(status));
  wait();
}

}  // namespace scalebits::cuda
