// A safetensors file mapped read-only and validated whole when it is opened: header JSON, dtypes, shapes, and byte
// ranges that tile the data without gap or overlap. Spans may lie at any alignment (old files do not pad their header).
#pragma once

#include "core/mapped_file.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;                // "F32", "U8", ... one of those safetensors_dtype_bits() knows
  std::vector<std::int64_t> shape;  // row-major, extents >= 0, empty for a scalar
  std::span<const std::byte> bytes;
};

/// Bits of one element of a safetensors dtype; 0 when the name is unknown.
int safetensors_dtype_bits(std::string_view dtype);

/// Bytes of a tensor; throws Error(bad_input) naming `where` for unknown dtypes, negative extents, sizes that overflow
/// 63 bits, and sub-byte types that do not fill their last byte.
std::uint64_t safetensors_size_bytes(std::string_view dtype, std::span<const std::int64_t> shape,
                                     const std::string& where);

using SafetensorsMetadata = std::map<std::string, std::string>;

/// The metadata under which a sealed file keeps its content_hash().
inline constexpr const char* kSealKey = "seal";

/// Of the metadata but for the seal, and of each entry's name, dtype, shape and bytes; their order does not matter.
std::string content_hash(const SafetensorsMetadata& metadata, std::vector<SafetensorsEntry> entries);

class SafetensorsFile {
 public:
  /// Throws Error(bad_input) naming the path, the tensor, what was wanted and what was found.
  static SafetensorsFile open(const std::filesystem::path& path);
  /// One that SafetensorsWriter::write_sealed made: Error(bad_input), too, where a byte is not as it was written.
  static SafetensorsFile open_sealed(const std::filesystem::path& path);

  /// In the order of their bytes in the file.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  const SafetensorsMetadata& metadata() const { return metadata_; }
  /// Null when there is none.
  const SafetensorsEntry* find(std::string_view name) const;
  /// Throws Error(bad_input) naming the file and the tensor when there is none.
  const SafetensorsEntry& entry(std::string_view name) const;

  /// The header exactly as it is stored, padding included: file bytes [8, data_offset()).
  std::string_view header_text() const;
  std::uint64_t data_offset() const { return data_offset_; }
  const std::filesystem::path& path() const { return file_->path(); }
  /// Keeps every span alive; hand it on as the owner of a view.
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  SafetensorsFile() = default;
  std::shared_ptr<const MappedFile> file_;
  std::uint64_t data_offset_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::size_t, std::less<>> index_;
  SafetensorsMetadata metadata_;
};

}  // namespace scalebits
