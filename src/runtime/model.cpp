#include "runtime/model.h"

#include "artifact/artifact.h"
#include "checkpoint/read_checkpoint.h"
#include "core/error.h"
#include "runtime/card_backend.h"
#include "runtime/forward.h"
#include "tokenizer/tokenizer.h"

#include <utility>

namespace scalebits {
namespace {

const RuntimeOptions& validated(const RuntimeOptions& options) {
  if (options.chunk_tokens < 1 || options.chunk_tokens > 65536)
    fail(ErrorKind::usage, "a chunk must be 1 to 65536 tokens, found {}", options.chunk_tokens);
  return options;
}

DenseWeights dense_view(const HostTensor& tensor) {
  return {tensor.dtype, tensor.shape[0], tensor.shape[1], tensor.bytes};
}

}  // namespace

RuntimeModel::RuntimeModel(const ModelSpec& spec, const RuntimeOptions& options)
    : spec_(spec), options_(validated(options)), threads_(options.threads),
      runner_(threads_, highest_isa(options.isa), options.activations) {}

RuntimeModel::~RuntimeModel() = default;

/// make_linear(name) → Linear, read_vector(name) → f32 values, both of required tensors.
template <typename MakeLinear, typename ReadVector>
void RuntimeModel::take_weights(const MakeLinear& make_linear, const ReadVector& read_vector) {
  const auto read_norm = [&](const std::string& weight_name) {
    RuntimeNorm norm{read_vector(weight_name), {}};
    if (spec_.norm == NormKind::layer) norm.bias = read_vector(norm_bias_name(weight_name));
    return norm;
  };
  embedding_.emplace(make_linear(std::string(kEmbeddingName)));
  if (spec_.positions == PositionKind::learned) positions_.emplace(make_linear(std::string(kPositionsName)));
  for (std::int64_t index = 0; index < spec_.layers; ++index) {
    RuntimeLayer& layer = layers_.emplace_back();
    for (const LinearKind kind : linear_kinds(spec_)) {
      const auto at = static_cast<std::size_t>(kind);
      layer.linears[at].emplace(make_linear(linear_name(index, kind)));
      if (has_bias(spec_, kind)) layer.biases[at] = read_vector(bias_name(index, kind));
    }
    layer.attention_norm = read_norm(layer_tensor(index, "input_layernorm.weight"));
    layer.mlp_norm = read_norm(layer_tensor(index, "post_attention_layernorm.weight"));
    if (!spec_.qk_norm) continue;
    layer.q_norm = read_vector(layer_tensor(index, "self_attn.q_norm.weight"));
    layer.k_norm = read_vector(layer_tensor(index, "self_attn.k_norm.weight"));
  }
  final_norm_ = read_norm(std::string(kFinalNormName));
  if (!spec_.tied_head) head_.emplace(make_linear(std::string(kHeadName)));
  if (options_.device == RuntimeDevice::cpu)
    backend_ = std::make_unique<ForwardPass>(*this);
  else
    backend_ = std::make_unique<CardBackend>(*this);
}

std::unique_ptr<RuntimeModel> RuntimeModel::from_artifact(std::shared_ptr<const Artifact> artifact,
                                                          const RuntimeOptions& options) {
  std::unique_ptr<RuntimeModel> model(new RuntimeModel(artifact->spec(), options));
  model->source_ = artifact->path().string();
  model->tokenizer_ = artifact->tokenizer();
  model->chat_template_ = artifact->chat_template();
  model->owners_ = {artifact};
  model->take_weights(
      [&](const std::string& name) -> Linear {
        if (const ArtifactMatrix* matrix = artifact->find_matrix(name))
          return {name, PackedWeights(matrix->packed, matrix->row_order, matrix->input_order)};
        return {name, dense_view(artifact->dense().at(name))};
      },
      [&](const std::string& name) { return artifact->dense().at(name).to_f32(); });
  return model;
}

std::unique_ptr<RuntimeModel> RuntimeModel::from_checkpoint(const Checkpoint& checkpoint,
                                                            const RuntimeOptions& options) {
  std::unique_ptr<RuntimeModel> model(new RuntimeModel(checkpoint.spec, options));
  model->source_ = checkpoint.source;
  model->tokenizer_ = checkpoint.tokenizer;
  model->chat_template_ = checkpoint.chat_template;
  model->take_weights(
      [&](const std::string& name) -> Linear {
        const HostTensor& tensor = checkpoint.tensor(name);
        model->owners_.push_back(tensor.owner);
        return {name, dense_view(tensor)};
      },
      [&](const std::string& name) { return checkpoint.tensor(name).to_f32(); });
  return model;
}

std::unique_ptr<RuntimeModel> RuntimeModel::open(const std::filesystem::path& path, const RuntimeOptions& options) {
  if (is_checkpoint(path))
    return from_checkpoint(read_checkpoint(path, {.check_values = false, .hash = false}), options);
  return from_artifact(std::make_shared<const Artifact>(Artifact::open(path)), options);
}

const Tokenizer& RuntimeModel::require_tokenizer() const {
  if (!tokenizer_) fail_input("{}: has no tokenizer, so text cannot be turned into tokens", source_);
  return *tokenizer_;
}

std::string RuntimeModel::placement() const { return backend_->placement(); }

std::uint64_t RuntimeModel::bytes_per_token() const {
  const auto vector_bytes = [](const std::vector<float>& values) { return values.size() * sizeof(float); };
  const auto norm_bytes = [&](const RuntimeNorm& norm) { return vector_bytes(norm.weight) + vector_bytes(norm.bias); };
  const auto row_bytes = [](const Linear& table) { return table.bytes() / static_cast<std::uint64_t>(table.rows()); };
  std::uint64_t bytes = head().bytes() + norm_bytes(final_norm_) + row_bytes(embedding());
  if (positions_) bytes += row_bytes(*positions_);
  for (const RuntimeLayer& layer : layers_) {
    for (const LinearKind kind : linear_kinds(spec_)) bytes += layer.linear(kind).bytes();
    for (const std::vector<float>& bias : layer.biases) bytes += vector_bytes(bias);
    bytes += norm_bytes(layer.attention_norm) + norm_bytes(layer.mlp_norm);
    bytes += vector_bytes(layer.q_norm) + vector_bytes(layer.k_norm);
  }
  return bytes;
}

}  // namespace scalebits
