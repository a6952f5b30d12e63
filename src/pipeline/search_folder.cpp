#include "pipeline/search_folder.h"

#include "core/atomic_file.h"
#include "core/error.h"

#include <chrono>
#include <fstream>
#include <random>
#include <thread>
#include <utility>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

constexpr const char* kToken = "token";
constexpr int kTokenBits = 52;                 // a double carries it
constexpr std::chrono::seconds kUntilSeen{5};  // by another machine, over a network file system
constexpr std::chrono::milliseconds kBetweenLooks{100};

double token_in(const fs::path& path) {
  double token = -1;
  std::ifstream(path) >> token;
  return token;
}

}  // namespace

SearchFolder::SearchFolder(fs::path folder, ProcessGroup& group, const ProgressSink& progress)
    : folder_(std::move(folder)) {
  const bool taken = !group.is_first() || lock_.take(folder_);
  if (group.any(!taken))
    fail_input("{}: another job is at work in this folder; wait for its end or write to another place with -o",
               folder_.string());
  if (!lock_.unlocked().empty() && progress)
    progress(
        {-1, "folder", fmt::format("{}: cannot be locked against other jobs: {}", folder_.string(), lock_.unlocked())});
  require_same_folder(group);
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
    if (entry.path().filename() != FolderLock::kName) fs::remove_all(entry.path());
}

}  // namespace scalebits
