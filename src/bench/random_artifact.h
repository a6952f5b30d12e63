// An artifact of a stated architecture and width mix with random codes: what speed is measured on, made in seconds and
// without a download. It runs, and activations keep their size, but it knows nothing.
#pragma once

#include "artifact/artifact_description.h"
#include "bench/width_mix.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

namespace scalebits {

/// none: no tables. site: one column order per input site, free rows, the MLP's channels folded. free: each matrix its
/// own rows and columns. As src/partition's of the same names.
enum class RandomOrders { none, site, free };

struct RandomArtifactOptions {
  std::int64_t layers = 16, hidden = 2048, intermediate = 8192, heads = 32, kv_heads = 8, vocab = 32000;
  std::int64_t max_positions = 32768;
  bool tied_head = false;
  WidthMix widths = WidthMix::parse("2:0.66,3:0.22,4:0.11,8:0.01");
  int head_bits = 6;  // width of embedding and head; 16: F16, not packed
  RandomOrders orders = RandomOrders::site;
  int block_rows = 16, block_cols = 64, group_cols = 64;
  std::uint64_t seed = 0;
};

/// "1.1b", "3b": replaces the architecture of `options`. Throws Error(usage) naming the known ones.
void apply_preset(std::string_view name, RandomArtifactOptions& options);

/// Throws Error(bad_input) for an architecture or a format that cannot be.
ArtifactDescription describe_random_artifact(const RandomArtifactOptions& options);

/// `on_tensor` is told how many bytes of the payload are done.
void write_random_artifact(const std::filesystem::path& path, const RandomArtifactOptions& options,
                           const std::function<void(std::uint64_t bytes)>& on_tensor);

}  // namespace scalebits
