// `scalebits kl`: how far a model's predictions on a text are from a reference model's.
#include "cli/commands.h"
#include "cli/evaluation.h"

#include <memory>

namespace scalebits::cli {

void add_kl(CLI::App& app) {
  auto arguments = std::make_shared<EvaluationArguments>();
  CLI::App* const command = app.add_subcommand("kl", "Measure how far a model's predictions are from another's");
  command->add_option("MODEL", arguments->model, "Hugging Face folder, GGUF file or artifact")->required();
  command->add_option("REFERENCE", arguments->reference, "The model to compare with, of the same vocabulary")
      ->required();
  add_evaluation_options(*command, *arguments);
  command->callback([arguments] { evaluate_text(*arguments); });
}

}  // namespace scalebits::cli
