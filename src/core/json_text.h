// JSON as the text of a file or an output.
#pragma once

#include "core/json.h"

#include <string>

namespace scalebits {

/// Indented by `indent`. A path need not be UTF-8: its bad bytes become U+FFFD, where dump() alone would throw.
inline std::string json_text(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace scalebits
