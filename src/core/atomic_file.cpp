#include "core/atomic_file.h"

#include "core/error.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace scalebits {
namespace {

/// A new file of this name, open; what it will become is `path`.
int open_beside(const std::filesystem::path& path, const std::filesystem::path& name) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    fail_input("{}: cannot be written: not a regular file", path.string());
  const int file = ::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) fail_input("{}: cannot be written: {}", path.string(), std::strerror(errno));
  return file;
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path), partial_path_(path) {
  partial_path_ += ".partial";
  fd_ = open_beside(path_, partial_path_);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_path_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_input("{}: cannot write: {}", partial_path_.string(), std::strerror(errno));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    bytes_written_ += static_cast<std::uint64_t>(written);
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail_input("{}: cannot flush to disk: {}", partial_path_.string(), std::strerror(errno));
  ::close(fd_);
  fd_ = -1;
  if (::rename(partial_path_.c_str(), path_.c_str()) != 0) {
    const int rename_errno = errno;
    ::unlink(partial_path_.c_str());
    fail_input("{}: cannot rename into place: {}", path_.string(), std::strerror(rename_errno));
  }
}

void check_output(const std::filesystem::path& output, const std::vector<std::filesystem::path>& inputs) {
  const std::filesystem::path folder = output.has_parent_path() ? output.parent_path() : ".";
  std::error_code ignored;
  for (const std::filesystem::path& input : inputs) {
    if (input.empty()) continue;
    if (std::filesystem::equivalent(output, input, ignored))
      fail(ErrorKind::usage, "{}: is what this command reads, and would be lost; write to another place",
           output.string());
    if (std::filesystem::is_directory(input, ignored) && std::filesystem::equivalent(folder, input, ignored))
      fail(ErrorKind::usage, "{}: lies in the folder that this command reads; write to another place", output.string());
  }
  // Not the name that another program may be writing to just now.
  const std::filesystem::path probe = output.string() + ".probe" + std::to_string(::getpid());
  ::close(open_beside(output, probe));
  ::unlink(probe.c_str());
}

void check_outputs(const std::vector<std::filesystem::path>& outputs,
                   const std::vector<std::filesystem::path>& inputs) {
  const auto whole = [](const std::filesystem::path& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path));
  };
  for (auto output = outputs.begin(); output != outputs.end(); ++output) {
    if (output->empty()) continue;
    check_output(*output, inputs);
    for (auto other = outputs.begin(); other != output; ++other)
      if (!other->empty() && whole(*other) == whole(*output))
        fail(ErrorKind::usage, "{}: is named for two outputs, of which one would be lost", output->string());
  }
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace scalebits
