// Ends a streamed text at the first stop string, before it is shown. Subtle rule: text that may be the beginning of a
// stop string is held back, and what comes out does not depend on how the text was cut into pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

class StopStrings {
 public:
  /// Throws Error(usage) for an empty stop string.
  explicit StopStrings(std::vector<std::string> stops = {});

  /// The text that `piece` makes certain; may be empty. After stopped(): nothing.
  std::string push(std::string_view piece);
  /// The text has ended: what was held back.
  std::string finish();
  /// Whether a stop string was seen. The first one to be complete ends the text; of several that end at the same place,
  /// the longest. It is not part of the text.
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace scalebits
