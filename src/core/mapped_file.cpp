#include "core/mapped_file.h"

#include "core/error.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace scalebits {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // Without O_NONBLOCK a pipe by that name would be waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail_input("{}: cannot open: {}", path.string(), std::strerror(errno));
  struct stat info{};
  const bool regular = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular || info.st_size == 0) {
    ::close(fd);
    fail_input("{}: {}", path.string(), regular ? "file is empty" : "not a regular file");
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int map_errno = errno;
  ::close(fd);
  if (address == MAP_FAILED) fail_input("{}: cannot map: {}", path.string(), std::strerror(map_errno));
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->bytes_ = {static_cast<const std::byte*>(address), size};
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::string_view MappedFile::text() const {
  const std::string_view text(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos)
    fail_input("{}: wanted text in UTF-8, found a byte of 0 at {}: {}", path_.string(), at,
               text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff") ? "UTF-16" : "no text, or UTF-16");
  return text;
}

}  // namespace scalebits
