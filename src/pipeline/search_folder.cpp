#include "pipeline/search_folder.h"

#include "core/atomic_file.h"
#include "core/error.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <random>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

constexpr const char *kLock = "lock", *kToken = "token";
constexpr int kTokenBits = 52;                 // a double carries it
constexpr std::chrono::seconds kUntilSeen{5};  // by another machine, over a network file system
constexpr std::chrono::milliseconds kBetweenLooks{100};

/// Whether the file that is open is still the one of that name: whoever had the lock may have removed it meanwhile.
bool is_still_there(int file, const fs::path& path) {
  struct stat held{}, there{};
  return ::fstat(file, &held) == 0 && ::stat(path.c_str(), &there) == 0 && held.st_ino == there.st_ino &&
         held.st_dev == there.st_dev;
}

double token_in(const fs::path& path) {
  double token = -1;
  std::ifstream(path) >> token;
  return token;
}

}  // namespace

SearchFolder::SearchFolder(fs::path folder, ProcessGroup& group, const ProgressSink& progress)
    : folder_(std::move(folder)) {
  try {
    const bool taken = !group.is_first() || take(progress);
    if (group.any(!taken))
      fail_input("{}: another job is at work in this folder; wait for its end or write to another place with -o",
                 folder_.string());
    require_same_folder(group);
  } catch (...) {
    release();
    throw;
  }
}

SearchFolder::~SearchFolder() { release(); }

bool SearchFolder::take(const ProgressSink& progress) {
  const fs::path path = folder_ / kLock;
  for (;;) {
    fs::create_directory(folder_);
    lock_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock_ < 0 && errno == ENOENT) continue;  // the folder went with the end of another job
    if (lock_ < 0) fail_input("{}: cannot be written: {}", path.string(), std::strerror(errno));
    const bool locked = ::flock(lock_, LOCK_EX | LOCK_NB) == 0;
    const int error = errno;
    if (!locked && error != EWOULDBLOCK) {
      if (progress)
        progress({-1, "folder",
                  fmt::format("{}: cannot be locked against other jobs: {}", folder_.string(), std::strerror(error))});
      return true;
    }
    if (locked && is_still_there(lock_, path)) return true;
    ::close(std::exchange(lock_, -1));
    if (!locked) return false;
  }
}

void SearchFolder::release() {
  if (lock_ < 0) return;
  // While it is locked; an empty folder goes with it, one that another job has come to stays.
  std::error_code ignored;
  fs::remove(folder_ / kLock, ignored);
  fs::remove(folder_, ignored);
  ::close(std::exchange(lock_, -1));
}

void SearchFolder::require_same_folder(ProcessGroup& group) const {
  if (group.size() == 1) return;
  const fs::path path = folder_ / kToken;
  double mine = 0;
  if (group.is_first()) {
    std::random_device random;
    mine = static_cast<double>((std::uint64_t{random()} << 32 | random()) >> (64 - kTokenBits));
    write_file_atomically(path, fmt::format("{:.0f}\n", mine));
  }
  const double wanted = group.from_first(mine);
  const auto deadline = std::chrono::steady_clock::now() + kUntilSeen;
  bool seen = token_in(path) == wanted;
  for (; !seen && std::chrono::steady_clock::now() < deadline; seen = token_in(path) == wanted)
    std::this_thread::sleep_for(kBetweenLooks);
  const bool unseen = group.any(!seen);
  std::error_code ignored;
  if (group.is_first()) fs::remove(path, ignored);
  if (unseen)
    fail_input(
        "{}: the {} processes of this job do not all see the same folder{}: they need the same -o, in a file system "
        "that all of them share",
        folder_.string(), group.size(), seen ? "" : fmt::format(" (process {} does not)", group.rank()));
}

void SearchFolder::remove_tunings() const {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_))
    if (entry.path().filename().string().starts_with("tuning")) fs::remove(entry.path());
}

void SearchFolder::remove_all() const {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_))
    if (entry.path().filename() != kLock) fs::remove_all(entry.path());
}

}  // namespace scalebits
