// A model ready to run without torch: its weights as the kernels read them, threads, chosen kernels. Packed matrices
// and 16-bit tensors stay in the mapped file; only vectors (norms, biases) are copied. Sequences are read by sessions
// (session.h); one model serves any number of them, one call at a time.
#pragma once

#include "core/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "model/checkpoint.h"
#include "model/model_spec.h"
#include "runtime/profile.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace scalebits {

class Artifact;
class Backend;
class Tokenizer;

namespace cuda {
class Device;
}

/// Where a model's layers run: here, or the last of them, as many as fit, on a CUDA card.
enum class RuntimeDevice { cpu, cuda };

struct CardOptions {
  std::uint64_t memory_bytes = 0;        // that may be taken of the card; 0: all that is free
  std::int64_t positions = 0;            // of a sequence, that room is kept for; 0: the model's, at most 8192
  KvType kv = KvType::f16;               // how that room is laid out; sessions of the other kind ask for their own
  std::shared_ptr<cuda::Device> device;  // null: the first card there is
};

struct RuntimeOptions {
  int threads = 0;         // 0: one for each core this process may use
  std::optional<Isa> isa;  // the highest that kernels may use; none: SCALEBITS_ISA, else the machine's
  ActivationFormat activations = ActivationFormat::i8;  // of products with packed weights; f32 is exact
  std::int64_t chunk_tokens = 256;  // a longer prompt is read in pieces of so many; results do not depend on it
  bool profile = false;             // collect profile()
  RuntimeDevice device = RuntimeDevice::cpu;
  CardOptions card;
};

/// A norm of the residual stream; `bias` is empty unless it is a LayerNorm.
struct RuntimeNorm {
  std::vector<float> weight, bias;
};

/// One decoder layer. `linears` and `biases`: by LinearKind, empty where there is none.
struct RuntimeLayer {
  std::array<std::optional<Linear>, kLinearKinds.size()> linears;
  std::array<std::vector<float>, kLinearKinds.size()> biases;
  RuntimeNorm attention_norm, mlp_norm;
  std::vector<float> q_norm, k_norm;  // empty without qk_norm

  const Linear& linear(LinearKind kind) const { return *linears[static_cast<std::size_t>(kind)]; }
  const std::vector<float>& bias(LinearKind kind) const { return biases[static_cast<std::size_t>(kind)]; }
};

class RuntimeModel {
 public:
  /// An artifact of ours, a Hugging Face folder or a GGUF file. Values are not scanned for NaN; a pass that meets one
  /// says so. Throws Error: bad_input naming the path and what is wrong with it, usage for an option out of its range,
  /// unsupported_hardware when the machine lacks the forced instruction set.
  static std::unique_ptr<RuntimeModel> open(const std::filesystem::path& path, const RuntimeOptions& options = {});
  /// The same from what is in memory already; shares its bytes.
  static std::unique_ptr<RuntimeModel> from_artifact(std::shared_ptr<const Artifact> artifact,
                                                     const RuntimeOptions& options = {});
  static std::unique_ptr<RuntimeModel> from_checkpoint(const Checkpoint& checkpoint,
                                                       const RuntimeOptions& options = {});
  ~RuntimeModel();
  RuntimeModel(const RuntimeModel&) = delete;
  RuntimeModel& operator=(const RuntimeModel&) = delete;

  const ModelSpec& spec() const { return spec_; }
  const RuntimeOptions& options() const { return options_; }
  /// Where it came from, for messages.
  const std::string& source() const { return source_; }
  /// Null when the source carries none.
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  /// Throws Error(bad_input) naming the source when there is none.
  const Tokenizer& require_tokenizer() const;
  /// Jinja text, empty when the source carries none.
  const std::string& chat_template() const { return chat_template_; }

  const Linear& embedding() const { return *embedding_; }
  /// [position_offset + max_positions, hidden]; null unless positions are learned.
  const Linear* positions() const { return positions_ ? &*positions_ : nullptr; }
  /// The embedding when tied.
  const Linear& head() const { return head_ ? *head_ : *embedding_; }
  const std::vector<RuntimeLayer>& layers() const { return layers_; }
  const RuntimeNorm& final_norm() const { return final_norm_; }
  /// Bytes of weights that decoding one token reads: all layers, norms, the head, and one row of the embedding and of
  /// learned positions.
  std::uint64_t bytes_per_token() const;

  /// Which layers are on the card and what they take there; empty on the CPU.
  std::string placement() const;

  ThreadPool& threads() { return threads_; }
  LinearRunner& runner() { return runner_; }
  /// Time spent since the model was opened or the profile cleared; all zero unless options().profile.
  Profile& profile() { return profile_; }
  /// The room's own: what sessions run, and logits that several passes gave.
  Backend& backend() { return *backend_; }
  std::vector<float>& joined_logits() { return joined_logits_; }

 private:
  RuntimeModel(const ModelSpec& spec, const RuntimeOptions& options);
  template <typename MakeLinear, typename ReadVector>
  void take_weights(const MakeLinear& make_linear, const ReadVector& read_vector);

  ModelSpec spec_;
  RuntimeOptions options_;
  std::string source_, chat_template_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::shared_ptr<const void>> owners_;  // of the bytes that weights are views of
  std::optional<Linear> embedding_, positions_, head_;
  std::vector<RuntimeLayer> layers_;
  RuntimeNorm final_norm_;
  Profile profile_;
  ThreadPool threads_;
  LinearRunner runner_;
  std::unique_ptr<Backend> backend_;
  std::vector<float> joined_logits_;
};

}  // namespace scalebits
