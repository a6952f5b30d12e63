// BAQ as published beside the GPTQ that it starts from, on a whole model: one walk through the layers, each rounded for
// the inputs that the rounded layers before it give. Writes the dense weights as a Hugging Face folder, for `scalebits
// perplexity`, and prints what they would take as one line of JSON.
//   bench_baq_columns MODEL OUT_FOLDER gptq|baq BITS CALIBRATION_FILE…
#include "checkpoint/read_checkpoint.h"
#include "checkpoint/write_hf_folder.h"
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "graph/decoder.h"
#include "pipeline/calibration.h"
#include "refine/baq_columns.h"
#include "refine/gptq.h"
#include "refine/layer_moments.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

using namespace scalebits;

namespace {

constexpr InputSite kSites[] = {InputSite::attention, InputSite::output, InputSite::mlp, InputSite::down};
constexpr double kDamping = 0.01;
constexpr int kWindows = 32;  // of 512 tokens

/// The checkpoint with the linears that are rounded so far.
class PartlyRounded : public CheckpointWeights {
 public:
  explicit PartlyRounded(const Checkpoint& checkpoint) : CheckpointWeights(checkpoint) {}
  at::Tensor linear(std::int64_t layer, LinearKind kind) override {
    const auto found = rounded.find(linear_name(layer, kind));
    return found == rounded.end() ? CheckpointWeights::linear(layer, kind) : found->second;
  }
  std::map<std::string, at::Tensor> rounded;
};

HostTensor host_tensor(const at::Tensor& values) {
  const auto* data = values.const_data_ptr<float>();
  return HostTensor::from_f32({values.size(0), values.size(1)}, {data, data + values.numel()});
}

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  const std::string method = argc > 3 ? argv[3] : "";
  if (argc < 6 || (method != "gptq" && method != "baq"))
    fail(ErrorKind::usage, "usage: bench_baq_columns MODEL OUT_FOLDER gptq|baq BITS CALIBRATION_FILE…");
  const at::NoGradGuard no_grad;
  Checkpoint checkpoint = read_checkpoint(argv[1]);
  const double bits = std::stod(argv[4]);
  Recipe recipe;
  recipe.window_length = 512;
  const at::Tensor ids =
      calibration_from_text(checkpoint, {argv + 5, argv + argc}, recipe).gradient_windows.narrow(0, 0, kWindows);
  PartlyRounded model(checkpoint);
  Decoder decoder(checkpoint.spec, model, {.compute = Compute::bf16});
  Decoder::Walk walk(decoder, ids.contiguous());
  double weights = 0, entropy = 0, fields = 0, side = 0;
  for (std::int64_t layer = 0; layer < checkpoint.spec.layers; ++layer) {
    fmt::print(stderr, "layer {}\r", layer);
    for (const InputSite site : kSites) {
      SiteMoments moments(site, nullptr);
      walk.look(site, moments);
      moments.finish();
      const at::Tensor factor =
          inverse_factor(damped_hessian(moments.inputs(), kDamping, linear_name(layer, LinearKind::q)));
      for (const LinearKind kind : linear_kinds(checkpoint.spec)) {
        if (input_site(kind) != site) continue;
        const at::Tensor exact = model.linear(layer, kind);
        const auto cols = static_cast<std::size_t>(exact.size(1));
        ColumnRounding rounding =
            round_columns(exact, factor, std::vector<int>(cols, static_cast<int>(std::exp2(bits))));
        if (method == "baq") rounding = round_columns(exact, factor, baq_levels(rounding.losses, bits));
        model.rounded[linear_name(layer, kind)] = rounding.weights;
        weights += static_cast<double>(exact.numel());
        entropy += rounding.entropy_bits;
        fields += rounding.field_bits;
        side += rounding.side_bits;
      }
    }
    walk.advance();
  }
  for (const auto& [name, values] : model.rounded) checkpoint.tensors[name] = host_tensor(values);
  write_hf_folder(checkpoint, argv[2], DType::f32);
  fmt::print("{}\n", Json{{"method", method},
                          {"bits", bits},
                          {"bpw_entropy", (entropy + side) / weights},
                          {"bpw_fields", (fields + side) / weights},
                          {"bpw_side", side / weights}}
                         .dump());
} catch (const Error& error) {
  fmt::print(stderr, "bench_baq_columns: {}\n", error.what());
  return 1;
}
