// The folder beside the output in which a job keeps its state: one job's at a time, and the same for all processes of
// the job.
#pragma once

#include "core/folder_lock.h"
#include "core/progress.h"
#include "distributed/process_group.h"

#include <filesystem>

namespace scalebits {

class SearchFolder {
 public:
  /// Makes it if it is not there; all processes of the job call it together. Throws Error(bad_input), everywhere, when
  /// another job is at work in it, or when the processes do not all see the same folder. `progress` is told when the
  /// file system has no locks.
  SearchFolder(std::filesystem::path folder, ProcessGroup& group, const ProgressSink& progress);

  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path state() const { return folder_ / "state.safetensors"; }
  std::filesystem::path own_text() const { return folder_ / "text.safetensors"; }
  /// Of a search before, to whose plan they belong.
  void remove_tunings() const;
  /// The work is done: nothing of it stays.
  void remove_all() const;

 private:
  void require_same_folder(ProcessGroup& group) const;

  std::filesystem::path folder_;
  FolderLock lock_;  // of the first process
};

}  // namespace scalebits
