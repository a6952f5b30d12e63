// In place of src/kernels/cuda/start.h where kernels run on the CPU (cuda_threads.h): they are asked for and run when
// the runtime of the test (fake_cuda.cpp) comes to them.
#pragma once

#include "cuda_threads.h"

#include <cstddef>
#include <type_traits>

namespace threads {
cudaError_t ask_for(const void* kernel, Grid grid);
}

namespace scalebits::cuda {

template <typename... Parameters>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, unsigned block, std::size_t shared, cudaStream_t,
                  std::type_identity_t<Parameters>... arguments) {
  return threads::ask_for(reinterpret_cast<const void*>(kernel),
                          {grid, block, shared, [kernel, arguments...] { kernel(arguments...); }});
}

}  // namespace scalebits::cuda
