// How --help shows an option: its name, what its value is called and which values there are, without the names that
// CLI11 has for types and checks.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace scalebits::cli {

class HelpFormat : public CLI::Formatter {
 public:
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    return without(CLI::Formatter::make_option_name(option, is_positional), "{false}");
  }

  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string text = CLI::Formatter::make_option_opts(option), type = option->get_type_name();
    const auto colon = type.find(':');
    if (colon == std::string::npos || type.compare(colon, 2, ":{") == 0) return text;  // a set of values is shown
    return without(text, type.substr(colon));
  }

 private:
  static std::string without(std::string text, const std::string& part) {
    for (auto at = text.find(part); at != std::string::npos; at = text.find(part)) text.erase(at, part.size());
    return text;
  }
};

}  // namespace scalebits::cli
