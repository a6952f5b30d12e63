// Where the passes of a search run, those of the rounding after it and of the text before it: this machine's processor
// with kernels of our own, or tensors on a CUDA card, which torch multiplies. No part of the recipe: it changes the
// order of sums, as the number of threads does, and nothing else.
#pragma once

#include "graph/arithmetic.h"
#include "graph/compute_device.h"
#include "model/checkpoint.h"
#include "pipeline/job_processes.h"
#include "pipeline/recipe.h"
#include "sensitivity/search_model.h"

#include <cstdint>
#include <memory>
#include <string>

namespace scalebits {

struct SearchDevice {
  using Kind = ComputeDevice;
  Kind kind = Kind::cpu;
  bool offload = false;            // weights stay in host memory; not for cpu
  std::uint64_t memory_bytes = 0;  // of the device, to be taken at most; 0: what is free
};

/// What the passes need to run on the device: a model that lies there, and how a decoder is to work on it.
struct SearchEngine {
  std::unique_ptr<ScoredModel> model;
  DecoderOptions decoder;
};
/// Keeps references to checkpoint, matrices and the processes' pipeline; open_compute_device() was called. With several
/// processes on a machine each takes a card of its own (numbered_device()). Throws Error(unsupported_hardware), with
/// the sum, when the memory that is to be had does not suffice.
SearchEngine make_search_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                                const RoundedMatrices& matrices, JobProcesses& processes);

/// What the final rounding's passes need: the full-precision model's weights where they run, and how two decoders are
/// to work there, of that model and of the rounded one.
struct RoundingEngine {
  std::unique_ptr<WeightSource> exact;
  DecoderOptions decoder;
};
/// Of the processes of the first replica; the search's engine is gone. Throws Error(unsupported_hardware) as
/// make_search_engine().
RoundingEngine make_rounding_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                                    JobProcesses& processes);

/// What writing the model's own text needs.
struct TextEngine {
  std::unique_ptr<WeightSource> weights;
  ComputePlace place;
  std::int64_t windows_at_once;  // 0: all
};
/// Of the job's first process, which runs all layers: with several stages, whose devices need not hold them all,
/// weights are sent as if offloaded. Throws Error(unsupported_hardware) when the memory does not suffice for one
/// window.
TextEngine make_text_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                            JobProcesses& processes);

/// How the device's memory will be shared out, without making anything; empty for the CPU. Throws as
/// make_search_engine() would, and as make_rounding_engine() where the recipe's rounding has passes.
std::string account_of(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                       JobProcesses& processes);

}  // namespace scalebits
