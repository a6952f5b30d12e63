// The row kernels for avx512; CMakeLists.txt gives this file its instruction set.
#define SCALEBITS_ISA avx512
#include "graph/row_kernels_body.h"
