// `scalebits verify`: proves that a file is what was written, byte by byte, and that it can be used.
#include "cli/commands.h"

#include "artifact/verify_artifact.h"

#include <fmt/format.h>

#include <memory>
#include <string>

namespace scalebits::cli {

void add_verify(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  CLI::App* const command = app.add_subcommand("verify", "Check every byte of an artifact against its checksums");
  command->add_option("ARTIFACT", *path, "A file that `scalebits quantize` wrote")->required();
  command->footer("Exit status: 0 when all is well, 3 when something is broken; the message names what.");
  command->callback([path] {
    const VerifiedArtifact verified = verify_artifact(*path);
    fmt::print("{}: ok, {} bytes and {} tensors checked\n", *path, verified.bytes, verified.tensors);
  });
}

}  // namespace scalebits::cli
