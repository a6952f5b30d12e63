// Writes a Checkpoint as a Hugging Face model folder that transformers and read_checkpoint() both read. The folder
// appears whole or not at all: everything is written to `<folder>.partial`, which is then renamed.
#pragma once

#include "core/float_types.h"
#include "model/checkpoint.h"

#include <cstdint>
#include <filesystem>

namespace scalebits {

inline constexpr std::uint64_t kShardBytes = std::uint64_t{4} << 30;

/// Converts every tensor to `dtype` (round to nearest even). Tensor data beyond `shard_bytes` goes to further shards
/// with an index. The tokenizer is kept in our own compact form; when the checkpoint came from a folder, its tokenizer
/// and generation files are copied too, and when it brought no tokenizer file, a tokenizer.json is written where that
/// format can say the same. A folder that this function wrote before is replaced. Throws Error(bad_input)
/// naming the folder when it exists, is not empty and is not one of ours, and naming the tensor when a value is out of
/// `dtype`'s range.
void write_hf_folder(const Checkpoint& checkpoint, const std::filesystem::path& folder, DType dtype,
                     std::uint64_t shard_bytes = kShardBytes);

/// Throws the error that write_hf_folder() would for what lies at `folder`, and one where nothing can be written there:
/// for before long work.
void require_hf_output(const std::filesystem::path& folder);

/// Whether write_hf_folder() wrote this folder or had begun to; an empty one counts. Throws Error(bad_input) when its
/// config.json is no JSON.
bool is_written_hf_folder(const std::filesystem::path& folder);
/// Removes such a folder, which stays known as one until it is gone.
void remove_written_hf_folder(const std::filesystem::path& folder);

}  // namespace scalebits
