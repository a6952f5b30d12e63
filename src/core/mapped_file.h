// A whole file mapped read-only. The mapping lives as long as any copy of the shared pointer.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace scalebits {

class MappedFile {
 public:
  /// Maps `path`. Throws Error(bad_input) naming the path when it cannot be opened, is no regular file, or is empty.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  /// Of a file that is meant to be text. Throws Error(bad_input) naming the path when a byte is 0: no text, or UTF-16.
  std::string_view text() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace scalebits
