// Writes a safetensors file whose exact size and header are known before any payload exists. Entries are stored in the
// order they were added; the header is padded with spaces so that the data starts at a multiple of 64 bytes. Tensors
// follow each other without gaps (the format forbids them): sizes that are multiples of 64 keep all of them aligned.
#pragma once

#include "core/atomic_file.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace scalebits {

class SafetensorsWriter {
 public:
  /// Sets or replaces; keys are stored in the order they were first set.
  void set_metadata(std::string_view key, std::string_view value);
  /// InternalError when the name was added before or `size_bytes` is not what dtype and shape take.
  void add(std::string name, std::string_view dtype, std::vector<std::int64_t> shape, std::uint64_t size_bytes);

  std::size_t entry_count() const { return entries_.size(); }
  /// The header as it will be stored: file bytes [8, data_offset()). Throws Error(bad_input) when a text is not UTF-8.
  std::string header_text() const;
  std::uint64_t data_offset() const { return 8 + header_text().size(); }
  std::uint64_t data_bytes() const { return data_bytes_; }
  /// Exact size of the file.
  std::uint64_t file_bytes() const { return data_offset() + data_bytes_; }

  /// Must append exactly the bytes of entry number `entry` to `file`.
  using WritePayload = std::function<void(std::size_t entry, AtomicFile& file)>;
  /// Writes the file atomically, asking for the payloads in order; InternalError when one has not its declared size.
  void write(const std::filesystem::path& path, const WritePayload& write_payload) const;
  void write(const std::filesystem::path& path, std::span<const std::span<const std::byte>> payloads) const;
  /// With a hash of all it holds, for SafetensorsFile::open_sealed.
  void write_sealed(const std::filesystem::path& path, std::span<const std::span<const std::byte>> payloads) const;

 private:
  struct Entry {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t begin, end;
  };
  std::vector<std::pair<std::string, std::string>> metadata_;
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
  std::uint64_t data_bytes_ = 0;
};

}  // namespace scalebits
