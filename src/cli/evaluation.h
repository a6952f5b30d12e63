// The measurements on a text that `perplexity` and `kl` share.
#pragma once

#include "cli/runtime_arguments.h"
#include "evaluate/perplexity.h"

#include <CLI/CLI.hpp>

#include <string>

namespace scalebits::cli {

struct EvaluationArguments {
  std::string model, text, reference, json;
  WindowOptions windows{.context = 0};  // 0: the usual one
  bool bos = false, quiet = false;
  RuntimeArguments runtime{.runtime = {.activations = ActivationFormat::f32}};
};

/// Adds all but the models.
void add_evaluation_options(CLI::App& command, EvaluationArguments& arguments);

/// Measures the model, and its divergence from the reference if one is named; prints, and writes the JSON.
void evaluate_text(EvaluationArguments arguments);

}  // namespace scalebits::cli
