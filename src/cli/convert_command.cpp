// `scalebits convert`: rewrites a model without changing its function and writes it as a Hugging Face folder.
#include "cli/commands.h"

#include "checkpoint/finite_values.h"
#include "checkpoint/read_checkpoint.h"
#include "checkpoint/write_hf_folder.h"
#include "core/error.h"
#include "core/units.h"
#include "transform/fold_norms.h"
#include "transform/rotate.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct ConvertOptions {
  std::string model, output, rotation, dtype = "f32";
  bool fold_norms = false;
  RotationOptions rotate;
};

DType dtype_from_name(const std::string& name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    if (CLI::detail::to_lower(std::string(name_of(dtype))) == name) return dtype;
  throw InternalError("the parser lets no other type through");
}

std::uint64_t folder_bytes(const std::filesystem::path& folder) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

/// A folder that is written is replaced whole, so that a model within it, or it within a model, would be lost.
void require_apart(const std::filesystem::path& output, const std::filesystem::path& model) {
  if (output.empty()) fail(ErrorKind::usage, "--output: wanted the name of a folder, found nothing");
  const auto whole = [](const std::filesystem::path& path) {
    return (std::filesystem::weakly_canonical(std::filesystem::absolute(path)) / "").lexically_normal().string();
  };
  const std::string to = whole(output), from = whole(model);
  if (to.starts_with(from) || from.starts_with(to))
    fail(ErrorKind::usage, "{}: lies in what this command reads ({}), or that in it; write to another place",
         output.string(), model.string());
}

void convert(const ConvertOptions& options) {
  require_apart(options.output, options.model);
  require_hf_output(options.output);
  Checkpoint model = read_checkpoint(options.model);
  fmt::print("Read {}: {}, {} layers of {}, vocabulary of {}\n", options.model, name_of(model.spec.family),
             model.spec.layers, model.spec.hidden, model.spec.vocab);
  if (!options.rotation.empty()) require_rotatable(model);  // else folding would be what fails
  if (options.fold_norms || !options.rotation.empty()) {
    model = fold_norms(model);
    fmt::print("Folded the norms into the linear layers; the head has its own weights\n");
  }
  if (!options.rotation.empty()) {
    model = rotate_residual(model, options.rotate);
    fmt::print("Rotated the residual stream: {}, seed {}\n", options.rotation, options.rotate.seed);
  }
  std::vector<NamedTensor> written;
  for (const auto& [name, tensor] : model.tensors)
    written.push_back({options.model + ": rewritten tensor " + name, tensor});
  check_finite(written);
  write_hf_folder(model, options.output, dtype_from_name(options.dtype));
  fmt::print("Wrote {}: {}, {}\n", options.output, options.dtype, format_bytes(folder_bytes(options.output)));
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* const command =
      app.add_subcommand("convert", "Write a model as a Hugging Face folder, rewritten without changing its function");
  command->add_option("MODEL", options->model, "Hugging Face folder or GGUF file")->required();
  command->add_option("-o,--output", options->output, "The folder to write; it must not exist, or be one of ours")
      ->required()
      ->type_name("FOLDER");
  command->add_flag("--fold-norms", options->fold_norms,
                    "Multiply the weights of each norm into the linear layers behind it, which leaves norms of 1. A "
                    "tied head becomes its own tensor");
  CLI::Option* const rotate =
      command
          ->add_option("--rotate", options->rotation,
                       "Rotate the residual stream: 'givens' turns random pairs of channels (mixes little, removes any "
                       "grid the weights lie on), 'hadamard' mixes many channels (removes outliers). Implies "
                       "--fold-norms")
          ->check(CLI::IsMember({"givens", "hadamard"}))
          ->type_name("KIND");
  command->add_option("--seed", options->rotate.seed, "Which random rotation")
      ->check(CLI::NonNegativeNumber)
      ->needs(rotate)
      ->type_name("N")
      ->capture_default_str();
  CLI::Option* const pairs =
      command->add_option("--pairs", options->rotate.pairs, "givens: how many pairs [half the channels]")
          ->needs(rotate)
          ->check(CLI::PositiveNumber)
          ->type_name("N");
  command->add_option("--dtype", options->dtype, "Type of the tensors written; f32 loses nothing")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->type_name("TYPE")
      ->capture_default_str();
  command->callback([options, pairs] {
    if (!options->rotation.empty()) options->rotate.kind = rotation_kind_from_name(options->rotation);
    if (pairs->count() != 0 && options->rotate.kind != RotationKind::givens)
      fail(ErrorKind::usage, "--pairs goes with --rotate givens only");
    convert(*options);
  });
}

}  // namespace scalebits::cli
