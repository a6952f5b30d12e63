// A search between two steps as a file, so that a killed search goes on to the same result. A safetensors file whose
// provenance (checkpoint, calibration, recipe) must match to be read back.
#pragma once

#include "pipeline/search.h"

#include <filesystem>
#include <string>

namespace scalebits {

/// What a state belongs to; two states with the same provenance lead to the same result.
struct Provenance {
  std::string checkpoint_hash, calibration_hash;
  Json recipe;
};

/// Atomically.
void save_search_state(const std::filesystem::path& path, const SearchState& state, const Provenance& provenance);

/// Throws Error(bad_input) naming the file when it is damaged, or when its provenance differs (naming what does).
SearchState load_search_state(const std::filesystem::path& path, const Provenance& provenance);

}  // namespace scalebits
