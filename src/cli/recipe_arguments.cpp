#include "cli/recipe_arguments.h"

#include "core/error.h"

namespace scalebits::cli {
namespace {

Json parse_setting(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0) fail(ErrorKind::usage, "--set takes OPTION=VALUE, found '{}'", text);
  const std::string value = text.substr(equals + 1);
  const bool is_json = Json::accept(value) && text.substr(0, equals) != "embedding";
  return {{text.substr(0, equals), is_json ? Json::parse(value) : Json(value)}};
}

}  // namespace

Recipe recipe_of_file(const std::string& path) {
  return path.empty() ? Recipe{} : recipe_from_json(read_json_file(path), {}, path);
}

Recipe with_settings(Recipe recipe, const std::vector<std::string>& settings) {
  try {
    for (const std::string& setting : settings)
      recipe = recipe_from_json(parse_setting(setting), recipe, "--set " + setting);
  } catch (const Error& error) {
    fail(ErrorKind::usage, "{}", error.what());  // no file's fault
  }
  return recipe;
}

}  // namespace scalebits::cli
