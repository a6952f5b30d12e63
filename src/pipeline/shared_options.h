// What all processes of a job must have been given alike: who was not would wait for ever in a collective that the
// others never call.
#pragma once

#include "pipeline/quantize.h"

namespace scalebits {

/// The job's first collectives. Throws Error(bad_input), everywhere, naming the option that is not the same everywhere;
/// files are compared by what they hold, later.
void require_same_options(ProcessGroup& group, const QuantizeJob& job);

}  // namespace scalebits
