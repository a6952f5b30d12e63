// Linked in place of prompt_hopper.cu where no code for sm_90a is built: such cards then run the kernel for all.
#include "kernels/cuda/launches.h"

namespace scalebits::cuda {

const PromptKernel* hopper_prompt_kernel() { return nullptr; }

}  // namespace scalebits::cuda
