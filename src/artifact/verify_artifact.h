// Proving that an artifact is what was written: every byte of the file is under a checksum, and a flipped checksum no
// longer fits its tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace scalebits {

struct VerifiedArtifact {
  std::uint64_t bytes = 0;  // of the file, all of them checked
  std::size_t tensors = 0;  // beside the checksums
};

/// Checks all checksums, then everything Artifact::open() checks, then that dense tensors are finite. Throws
/// Error(bad_input) naming the header or the tensors at fault.
VerifiedArtifact verify_artifact(const std::filesystem::path& path);

}  // namespace scalebits
