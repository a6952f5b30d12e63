#include "core/folder_lock.h"

#include "core/error.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

/// Whether the file that is open is still the one of that name: whoever had the lock may have removed it meanwhile.
bool is_still_there(int file, const fs::path& path) {
  struct stat held{}, there{};
  return ::fstat(file, &held) == 0 && ::stat(path.c_str(), &there) == 0 && held.st_ino == there.st_ino &&
         held.st_dev == there.st_dev;
}

}  // namespace

bool FolderLock::take(const fs::path& folder) {
  release();
  folder_ = folder;
  unlocked_.clear();
  const fs::path path = folder / kName;
  for (;;) {
    fs::create_directories(folder);
    file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file_ < 0 && errno == ENOENT) continue;  // the folder went with the end of another job
    if (file_ < 0) fail_input("{}: cannot be written: {}", path.string(), std::strerror(errno));
    const bool locked = ::flock(file_, LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno != EWOULDBLOCK) {
      unlocked_ = std::strerror(errno);
      return true;
    }
    if (locked && is_still_there(file_, path)) return true;
    ::close(std::exchange(file_, -1));
    if (!locked) return false;
  }
}

void FolderLock::release() {
  if (file_ < 0) return;
  // While it is locked; an empty folder goes with it, one that another job has come to stays.
  std::error_code ignored;
  fs::remove(folder_ / kName, ignored);
  fs::remove(folder_, ignored);
  ::close(std::exchange(file_, -1));
}

}  // namespace scalebits
