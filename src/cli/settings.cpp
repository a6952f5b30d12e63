#include "cli/settings.h"

namespace scalebits::cli {

Json parse_setting(const std::string& setting, const std::string& text_option) {
  const auto equals = setting.find('=');
  if (equals == std::string::npos || equals == 0)
    fail(ErrorKind::usage, "--set takes OPTION=VALUE, found '{}'", setting);
  const std::string option = setting.substr(0, equals), value = setting.substr(equals + 1);
  return {{option, Json::accept(value) && option != text_option ? Json::parse(value) : Json(value)}};
}

}  // namespace scalebits::cli
