// From a plan to a file: what the artifact will hold, exactly how large it will be, and writing it. Folded orders are
// applied here to the tensors that are not quantised, so that the stored model computes the same function.
#pragma once

#include "artifact/artifact_description.h"
#include "model/checkpoint.h"
#include "partition/partition.h"
#include "rounding/bit_plan.h"
#include "rounding/rounded_matrix.h"

#include <filesystem>
#include <cstddef>
#include <functional>
#include <span>

namespace scalebits {

/// Everything of the file but its payload and its widths (0 until set_widths). `matrices[i]` (null: not quantised)
/// belongs to partition.matrices[i]. Tensors that are not quantised are stored in 16 bits: as they are, or from f32 as
/// F16 (BF16 when F16 cannot hold them). Reads every such tensor once.
ArtifactDescription describe_artifact(const Checkpoint& checkpoint, const Partition& partition,
                                      const RoundedMatrices& matrices, const Json& recipe);

void set_widths(ArtifactDescription& description, const RoundedMatrices& matrices, const BitPlan& plan);

/// Fills the blob of matrices[i].
using MatrixPacker = std::function<void(std::size_t i, std::span<std::byte> blob)>;

/// Writes the artifact that `description` (describe_artifact's) tells of.
void write_packed_model(const std::filesystem::path& path, const ArtifactDescription& description,
                        const Checkpoint& checkpoint, const Partition& partition, const RoundedMatrices& matrices,
                        const MatrixPacker& pack_matrix);

}  // namespace scalebits
