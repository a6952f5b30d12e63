// Which of a run's checkpoints stay: the last one and, until a later loss has shown that one to be good, the last that
// was shown to be. What a run that is lost leaves behind is then a checkpoint worth going on from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace scalebits {

class KeptCheckpoints {
 public:
  /// Of the run in the folder `run`. `removes`: this process is the one that writes there.
  KeptCheckpoints(std::filesystem::path run, bool removes);
  std::optional<std::uint64_t> last() const { return last_; }
  /// A checkpoint was saved after so many updates.
  void saved(std::uint64_t step);
  /// The weights after so many updates have a loss to go on from, and so has all that they came from.
  void seen_good(std::uint64_t step);
  /// For the end of a message: which checkpoint to go on from, and where it lies.
  std::string last_good() const;

 private:
  void remove_others() const;

  std::filesystem::path run_;
  bool removes_;
  std::optional<std::uint64_t> last_, good_;
};

}  // namespace scalebits
