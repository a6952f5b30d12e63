#include "sampling/stop_strings.h"

#include "core/error.h"

#include <algorithm>
#include <utility>

namespace scalebits {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) fail(ErrorKind::usage, "a stop string must not be empty");
}

std::string StopStrings::push(std::string_view piece) {
  if (stopped_) return "";
  held_ += piece;
  std::size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t found = held_.find(stop);
    if (found == std::string::npos) continue;
    if (found + stop.size() < end || (found + stop.size() == end && found < begin)) {
      begin = found;
      end = found + stop.size();
    }
  }
  stopped_ = begin != std::string::npos;
  std::size_t certain = stopped_ ? begin : held_.size();
  if (!stopped_)
    for (const std::string& stop : stops_)
      for (std::size_t length = std::min(stop.size() - 1, held_.size()); held_.size() - length < certain; --length)
        if (held_.ends_with(std::string_view(stop).substr(0, length))) certain = held_.size() - length;
  std::string text = held_.substr(0, certain);
  held_.erase(0, stopped_ ? held_.size() : certain);
  return text;
}

std::string StopStrings::finish() { return std::exchange(held_, ""); }

}  // namespace scalebits
