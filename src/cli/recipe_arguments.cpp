#include "cli/recipe_arguments.h"

#include "cli/settings.h"

namespace scalebits::cli {

Recipe recipe_of_file(const std::string& path) {
  return path.empty() ? Recipe{} : recipe_from_json(read_json_file(path), {}, path);
}

Recipe with_settings(Recipe recipe, const std::vector<std::string>& settings) {
  return with_settings(std::move(recipe), settings, "embedding", recipe_from_json);
}

}  // namespace scalebits::cli
