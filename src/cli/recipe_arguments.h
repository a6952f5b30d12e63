// Recipes on the command line: `--recipe FILE` and `--set OPTION=VALUE`.
#pragma once

#include "pipeline/recipe.h"

#include <string>
#include <vector>

namespace scalebits::cli {

/// The file's options over the defaults; the defaults without a file.
Recipe recipe_of_file(const std::string& path);
/// `recipe` with these options changed; a value that is not JSON is a string.
Recipe with_settings(Recipe recipe, const std::vector<std::string>& settings);

}  // namespace scalebits::cli
