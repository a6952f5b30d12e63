// A folder for one job at a time: a file `lock` in it, locked while this object has it. A process that is killed leaves
// the folder to others, too.
#pragma once

#include <filesystem>
#include <string>

namespace scalebits {

class FolderLock {
 public:
  FolderLock() = default;
  ~FolderLock() { release(); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  static constexpr const char* kName = "lock";
  /// Makes the folder if it is not there. False when another job has it. A file system without locks gives every job
  /// the folder, and `unlocked()` says why. Throws Error(bad_input) when it cannot be written there.
  bool take(const std::filesystem::path& folder);
  /// Empty, or why the folder that was taken is not locked.
  const std::string& unlocked() const { return unlocked_; }
  /// Removes the lock's file, and the folder when it is empty then.
  void release();

 private:
  std::filesystem::path folder_;
  std::string unlocked_;
  int file_ = -1;
};

}  // namespace scalebits
