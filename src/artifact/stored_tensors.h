// Inside the room: the tensors of an artifact in the order of the file, and the metadata text that refers to them by
// that order. Subtle rule: tensors whose bytes are a multiple of 64 come first, so that all of them are aligned; then
// those of 4-byte, of 2-byte and of 1-byte elements, so that each is aligned to its element; checksums are last.
#pragma once

#include "artifact/artifact_description.h"
#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"

#include <span>
#include <string>
#include <vector>

namespace scalebits {

struct StoredTensor {
  enum class Kind { matrix, dense, table, tokenizer, checksums };
  Kind kind = Kind::matrix;
  std::size_t index = 0;  // in the description's list of that kind
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t bytes = 0;
};

/// In the order of the file, checksums included.
std::vector<StoredTensor> stored_tensors(const ArtifactDescription& description);

/// Entries and metadata of the whole file.
SafetensorsWriter declare_file(const ArtifactDescription& description, const std::vector<StoredTensor>& tensors);

inline constexpr std::string_view kMetadataKey = "scalebits";
inline constexpr int kFormatVersion = 1;

/// The metadata's text for these tensors.
std::string metadata_text(const ArtifactDescription& description, const std::vector<StoredTensor>& tensors);
/// All of the description but the widths, from a file's metadata and entries; validates what it reads.
ArtifactDescription description_from_file(const SafetensorsFile& file);

/// XXH3-64 of the file's bytes before its data: the length, then the header's text.
std::uint64_t header_checksum(std::string_view header_text);
/// The checksum in slot `slot` of the checksums tensor: 0 the header, then each other tensor in the order of the file.
std::uint64_t stored_checksum(std::span<const std::byte> checksums, std::size_t slot);
/// The checksums tensor; throws Error(bad_input) unless it is the last tensor and has one slot for each other and the
/// header.
const SafetensorsEntry& checksums_entry(const SafetensorsFile& file);

}  // namespace scalebits
