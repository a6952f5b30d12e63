// Where a search's passes run: this machine's processor with kernels of our own, or tensors on a CUDA card, which torch
// multiplies. No part of the recipe: it changes the order of sums, as the number of threads does, and nothing else.
#pragma once

#include "distributed/process_group.h"
#include "graph/arithmetic.h"
#include "model/checkpoint.h"
#include "pipeline/recipe.h"
#include "sensitivity/search_model.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace scalebits {

struct SearchDevice {
  enum class Kind {
    cpu,
    cuda,
    cpu_tensors  // the card's path on this processor, for tests: slower than cpu, and counts memory as a card does
  };
  Kind kind = Kind::cpu;
  bool offload = false;            // weights stay in host memory; not for cpu
  std::uint64_t memory_bytes = 0;  // of the device, to be taken at most; 0: what is free
};

/// "cpu", "cuda", "cpu-tensors". Throws Error(usage) listing them.
SearchDevice::Kind search_device_from_name(std::string_view name);

/// Loads what the device needs, before anything else of torch's is used. Throws Error(unsupported_hardware) saying what
/// is missing: a libtorch with CUDA, one of CUDA's own libraries, a card.
void open_search_device(SearchDevice::Kind kind);

/// What the passes need to run on the device: a model that lies there, and how a decoder is to work on it.
struct SearchEngine {
  std::unique_ptr<ScoredModel> model;
  DecoderOptions decoder;
};
/// Keeps references to checkpoint and matrices. With several processes on a machine each takes the card of its
/// LOCAL_RANK, or of its rank, modulo the number of cards. Throws Error(unsupported_hardware), with the sum, when the
/// memory that is to be had does not suffice.
SearchEngine make_search_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                                const RoundedMatrices& matrices, const ProcessGroup& group);

/// How the device's memory will be shared out, without making anything; empty for the CPU. Throws as
/// make_search_engine() would.
std::string account_of(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                       const ProcessGroup& group);

}  // namespace scalebits
