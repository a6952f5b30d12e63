#include "checkpoint/opt_config.h"

namespace scalebits {
namespace {

/// Rows that the table of positions begins with and that no token of an unpadded text takes: transformers adds this to
/// each position.
constexpr std::int64_t kPositionOffset = 2;
constexpr double kNormEps = 1e-5;  // torch's default for a LayerNorm; config.json has no key for it

}  // namespace

void read_opt_config(const ConfigKeys& config, ModelSpec& spec) {
  const std::string& where = config.where();
  spec.layers = config.required_integer("num_hidden_layers");
  spec.hidden = config.required_integer("hidden_size");
  spec.intermediate = config.required_integer("ffn_dim");
  spec.heads = spec.kv_heads = config.required_integer("num_attention_heads");
  spec.vocab = config.required_integer("vocab_size");
  if (spec.heads < 1 || spec.hidden % spec.heads != 0)
    fail_input("{}: hidden_size ({}) must be a multiple of num_attention_heads ({})", where, spec.hidden, spec.heads);
  spec.head_dim = spec.hidden / spec.heads;
  spec.max_positions = config.integer("max_position_embeddings").value_or(2048);

  const std::string act = config.text("activation_function").value_or("relu");
  if (act != "relu") fail_input("{}: activation_function must be relu, found '{}'", where, act);
  if (const auto width = config.integer("word_embed_proj_dim"); width && *width != spec.hidden)
    fail_input(
        "{}: word_embed_proj_dim must be hidden_size ({}), found {}: an embedding that is projected, as in "
        "opt-350m, is not known",
        where, spec.hidden, *width);
  if (!config.flag("do_layer_norm_before", true))
    fail_input("{}: do_layer_norm_before must be true: norms behind what they follow, as in opt-350m, are not known",
               where);
  if (config.flag("_remove_final_layer_norm", false))
    fail_input("{}: _remove_final_layer_norm must be false: a model without a final norm is not known", where);
  if (!config.flag("layer_norm_elementwise_affine", true))
    fail_input("{}: layer_norm_elementwise_affine must be true: norms without weights are not known", where);

  spec.norm = NormKind::layer;
  spec.norm_eps = kNormEps;
  spec.mlp = MlpKind::relu;
  spec.positions = PositionKind::learned;
  spec.position_offset = kPositionOffset;
  spec.tied_head = config.flag("tie_word_embeddings", true);
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = config.flag("enable_bias", true);
}

Json opt_config(const ModelSpec& spec) {
  return {{"vocab_size", spec.vocab},
          {"hidden_size", spec.hidden},
          {"word_embed_proj_dim", spec.hidden},
          {"ffn_dim", spec.intermediate},
          {"num_hidden_layers", spec.layers},
          {"num_attention_heads", spec.heads},
          {"max_position_embeddings", spec.max_positions},
          {"activation_function", "relu"},
          {"do_layer_norm_before", true},
          {"_remove_final_layer_norm", false},
          {"layer_norm_elementwise_affine", true},
          {"enable_bias", spec.qkv_bias},
          {"tie_word_embeddings", spec.tied_head}};
}

}  // namespace scalebits
