// An option that may be given several times, such as --set and --stop.
#pragma once

#include <CLI/CLI.hpp>

namespace scalebits::cli {

/// Has an option whose values fill a vector take one of them each time it is given, just as it is. By itself CLI11
/// goes on to the next flag, MODEL being taken too, and cuts a value in brackets at its commas.
inline CLI::Option* one_value_each_time(CLI::Option* option) {
  return option->expected(1)->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace scalebits::cli
