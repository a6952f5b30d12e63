#include "graph/denormals.h"

#include <ATen/Parallel.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace scalebits {
namespace {

#if defined(__x86_64__)
constexpr unsigned kFlushResults = 0x8000, kReadAsZero = 0x40;

unsigned current_mode() { return _mm_getcsr(); }
unsigned flushing(unsigned mode) { return mode | kFlushResults | kReadAsZero; }
void set_on_all_threads(unsigned mode) {
#pragma omp parallel num_threads(at::get_num_threads())
  _mm_setcsr(mode);
}
#else
// Other processors take denormals at full speed, or nearly.
unsigned current_mode() { return 0; }
unsigned flushing(unsigned mode) { return mode; }
void set_on_all_threads(unsigned) {}
#endif

}  // namespace

DenormalsAreZero::DenormalsAreZero() : before_(current_mode()) { set_on_all_threads(flushing(before_)); }
DenormalsAreZero::~DenormalsAreZero() { set_on_all_threads(before_); }

}  // namespace scalebits
