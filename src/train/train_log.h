// The log of a run: one JSON object a line in `log.jsonl`, appended as steps are made. A run that goes on after an
// interruption first drops the lines of steps that it makes again.
#pragma once

#include "core/json.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <vector>

namespace scalebits {

class TrainLog {
 public:
  /// Keeps the lines of updates before `first_step`, and opens the file for more. Throws Error(bad_input) naming the
  /// file when it cannot be read or written.
  TrainLog(const std::filesystem::path& path, std::uint64_t first_step);
  /// `line` holds "step", the number of the update it tells of, counted from 0.
  void add(const Json& line);
  /// All lines, those of earlier sittings included.
  const std::vector<Json>& lines() const { return lines_; }

 private:
  std::filesystem::path path_;
  std::ofstream file_;
  std::vector<Json> lines_;
};

}  // namespace scalebits
