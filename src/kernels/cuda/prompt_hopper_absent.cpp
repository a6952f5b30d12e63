// Linked in place of prompt_hopper.cu where no code for sm_90a is built: such cards then run the kernel for all.
#include "kernels/cuda/launches.h"

namespace scalebits::cuda {

std::span<const PromptKernel> hopper_prompt_kernels() { return {}; }

}  // namespace scalebits::cuda
