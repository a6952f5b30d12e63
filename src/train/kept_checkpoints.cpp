#include "train/kept_checkpoints.h"

#include "checkpoint/write_hf_folder.h"
#include "train/train_state.h"

#include <fmt/format.h>

#include <utility>

namespace scalebits {

namespace fs = std::filesystem;

KeptCheckpoints::KeptCheckpoints(fs::path run, bool removes) : run_(std::move(run)), removes_(removes) {
  last_ = latest_step(run_);
  // Older than the last one is the last good one, and what a run that was killed had not come to remove yet.
  if (last_)
    for (const auto& entry : fs::directory_iterator(run_))
      if (const auto step = step_of_checkpoint(entry.path());
          step && *step < good_.value_or(*last_) && is_whole_checkpoint(checkpoint_folder(run_, *step)))
        good_ = step;
}

void KeptCheckpoints::saved(std::uint64_t step) {
  last_ = step;
  remove_others();
}

void KeptCheckpoints::seen_good(std::uint64_t step) {
  if (!last_ || step < *last_ || good_ == last_) return;
  good_ = last_;
  remove_others();
}

std::string KeptCheckpoints::last_good() const {
  if (!last_) return "no checkpoint had been saved";
  if (!good_) return fmt::format("the only checkpoint, that of step {}, is not known to be good", *last_);
  std::string text = fmt::format("the last good checkpoint is that of step {} in {}", *good_,
                                 checkpoint_folder(run_, *good_).string());
  if (good_ != last_) text += fmt::format(" (start_run takes it; that of step {} is not known to be good)", *last_);
  return text;
}

void KeptCheckpoints::remove_others() const {
  if (!removes_) return;
  for (const auto& entry : fs::directory_iterator(run_))
    if (const auto step = step_of_checkpoint(entry.path()); step && step != last_ && step != good_) {
      if (!entry.is_directory())
        fs::remove(entry.path());
      else if (is_written_hf_folder(entry.path()))
        remove_written_hf_folder(entry.path());
    }
}

}  // namespace scalebits
