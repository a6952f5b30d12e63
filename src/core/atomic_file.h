// Writing a file so that a reader sees the old content or the whole new one, never a part: the bytes go to
// `<path>.partial`, are flushed to disk, and the file is renamed on commit().
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace scalebits {

class AtomicFile {
 public:
  /// Throws Error(bad_input) naming the path when the temporary file cannot be created, or when something that is no
  /// regular file is there: it would be replaced.
  explicit AtomicFile(const std::filesystem::path& path);
  /// Removes the temporary file unless committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends; a full disk is an Error naming the path.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  std::uint64_t bytes_written() const { return bytes_written_; }

  /// Flushes to disk and renames onto the final path.
  void commit();

 private:
  std::filesystem::path path_, partial_path_;
  int fd_ = -1;
  std::uint64_t bytes_written_ = 0;
};

/// To be called before long work: throws Error(usage) where writing `output` would replace one of the files, or fall
/// into one of the folders, that the work reads (empty paths are none), and Error(bad_input) where it cannot be
/// written.
void check_output(const std::filesystem::path& output, const std::vector<std::filesystem::path>& inputs);

/// The same of several outputs, which must be different files, too; empty ones are none.
void check_outputs(const std::vector<std::filesystem::path>& outputs, const std::vector<std::filesystem::path>& inputs);

void write_file_atomically(const std::filesystem::path& path, std::string_view content);

}  // namespace scalebits
