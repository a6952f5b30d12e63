#include "transform/fold_norms.h"

#include "core/hash.h"
#include "core/parallel.h"
#include "transform/residual_stream.h"

namespace scalebits {
namespace {

HostTensor scale_columns(const HostTensor& matrix, const std::vector<float>& scale) {
  const auto cols = static_cast<std::int64_t>(scale.size());
  SCALEBITS_ASSERT(matrix.shape.size() == 2 && matrix.shape[1] == cols);
  std::vector<float> values(static_cast<std::size_t>(matrix.elements()));
  parallel_for(matrix.shape[0], [&](std::int64_t row) {
    const std::span out(values.data() + row * cols, scale.size());
    matrix.copy_f32(row * cols, out);
    for (std::size_t col = 0; col < out.size(); ++col) out[col] *= scale[col];
  });
  return HostTensor::from_f32(matrix.shape, std::move(values));
}

}  // namespace

Checkpoint fold_norms(const Checkpoint& checkpoint) {
  if (checkpoint.spec.norm != NormKind::rms)
    fail_input(
        "{}: norms can be folded only where they are RMSNorm: the bias of the last LayerNorm of this {} model has "
        "no place in the head, which has none",
        checkpoint.source, name_of(checkpoint.spec.family));
  Checkpoint folded = checkpoint;
  if (folded.spec.tied_head) {
    folded.spec.tied_head = false;
    folded.tensors[std::string(kHeadName)] = folded.tensor(kEmbeddingName);
  }
  for (const auto& [norm, readers] : norm_readers(folded.spec)) {
    const std::vector<float> weight = folded.tensor(norm).to_f32();
    for (const std::string& reader : readers) folded.tensors[reader] = scale_columns(folded.tensor(reader), weight);
    folded.tensors[norm] = HostTensor::from_f32({folded.spec.hidden}, std::vector<float>(weight.size(), 1.0f));
  }
  folded.hash = hash_hex(checkpoint.hash + " fold_norms");
  return folded;
}

}  // namespace scalebits
