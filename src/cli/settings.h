// `--set OPTION=VALUE` on the command line: options over those of a file or the defaults.
#pragma once

#include "core/error.h"
#include "core/json.h"

#include <string>
#include <utility>
#include <vector>

namespace scalebits::cli {

/// {OPTION: VALUE}; a value that is not JSON is a string, and so is that of the option `text_option`.
Json parse_setting(const std::string& setting, const std::string& text_option = "");

/// `options` with each of `settings` read over it by read(JSON object, options, where). All errors are Errors(usage):
/// no file is at fault.
template <typename Options, typename Read>
Options with_settings(Options options, const std::vector<std::string>& settings, const std::string& text_option,
                      const Read& read) {
  try {
    for (const std::string& setting : settings)
      options = read(parse_setting(setting, text_option), std::move(options), "--set " + setting);
  } catch (const Error& error) {
    fail(ErrorKind::usage, "{}", error.what());
  }
  return options;
}

}  // namespace scalebits::cli
