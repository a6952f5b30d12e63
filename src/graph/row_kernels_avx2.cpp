// The row kernels for avx2; CMakeLists.txt gives this file its instruction set.
#define SCALEBITS_ISA avx2
#include "graph/row_kernels_body.h"
