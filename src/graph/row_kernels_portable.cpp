// The row kernels for any processor; CMakeLists.txt gives this file its instruction set.
#define SCALEBITS_ISA portable
#include "graph/row_kernels_body.h"
