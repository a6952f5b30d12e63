// A search between two steps as a file, so that a killed search goes on to the same result. A safetensors file whose
// provenance (checkpoint, calibration, recipe) must match for it to go on.
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

struct SavedSearch {
  SearchState state;
  Provenance provenance;
};

/// Throws Error(bad_input) naming the file when it is damaged or no search state.
SavedSearch load_search_state(const std::filesystem::path& path);

/// Throws Error(bad_input) naming the file and what differs; Error(usage) where that is an option.
void require_same(const Provenance& found, const Provenance& wanted, const std::filesystem::path& path);

}  // namespace scalebits
