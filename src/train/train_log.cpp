#include "train/train_log.h"

#include "core/atomic_file.h"
#include "core/error.h"

#include <string>

namespace scalebits {

TrainLog::TrainLog(const std::filesystem::path& path, std::uint64_t first_step) : path_(path) {
  std::string kept;
  if (std::ifstream old(path); old) {
    // A line that was being written when the program died ends the log.
    for (std::string line; std::getline(old, line) && !old.eof();) {
      Json json = parse_json(line, path.string());
      if (!json.contains("fp4_share"))
        fail(ErrorKind::usage, "{}: another program's log; choose another folder", path.string());
      if (json_value<std::uint64_t>(json, "step", path.string()) >= first_step) break;
      kept += line + "\n";
      lines_.push_back(std::move(json));
    }
  }
  write_file_atomically(path, kept);
  file_.open(path, std::ios::app);
  if (!file_) fail_input("{}: cannot be written", path.string());
}

void TrainLog::add(const Json& line) {
  file_ << line.dump() << std::endl;
  if (!file_) fail_input("{}: cannot be written; is the disk full?", path_.string());
  lines_.push_back(line);
}

}  // namespace scalebits
