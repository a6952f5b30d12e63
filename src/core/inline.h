// Inlining that is not left to the compiler: code that must be compiled for its caller's instruction set, or whose
// arrays must become registers. SCALEBITS_STEP is for lambdas: [](auto i) SCALEBITS_STEP { … }.
#pragma once

#define SCALEBITS_INLINE [[gnu::always_inline]] inline
#define SCALEBITS_STEP __attribute__((always_inline))
