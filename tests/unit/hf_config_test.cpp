// checkpoint: the configuration of a Hugging Face folder says what transformers would make of it; what is unknown or
// does not fit is an error that names the key.
#include "checkpoint/hf_config.h"
#include "mentions.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace scalebits {
namespace {

ModelSpec config(const std::string& text, const std::string& generation = "null") {
  return spec_from_hf_config(Json::parse(text), Json::parse(generation), "config.json");
}

const std::string kLlama32 = R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"bos_token_id":128000,
  "eos_token_id":[128001,128008,128009],"head_dim":64,"hidden_act":"silu","hidden_size":2048,"intermediate_size":8192,
  "max_position_embeddings":131072,"mlp_bias":false,"model_type":"llama","num_attention_heads":32,"num_hidden_layers":16,
  "num_key_value_heads":8,"rms_norm_eps":1e-05,"rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
  "original_max_position_embeddings":8192,"rope_type":"llama3"},"rope_theta":500000.0,"tie_word_embeddings":true,
  "vocab_size":128256})";

TEST(HfConfig, Llama3WithRopeScaling) {
  const ModelSpec spec = config(kLlama32);
  EXPECT_EQ(spec.family, Family::llama);
  EXPECT_EQ(spec.rope_scaling.kind, RopeScaling::Kind::llama3);
  EXPECT_EQ(spec.rope_scaling.factor, 32);
  EXPECT_EQ(spec.rope_theta, 500000);
  EXPECT_TRUE(spec.tied_head);
  EXPECT_FALSE(spec.qkv_bias);
  EXPECT_EQ(spec.eos_ids, (std::vector<std::int32_t>{128001, 128008, 128009}));
  EXPECT_EQ(config(kLlama32, R"({"eos_token_id":128009})").eos_ids, std::vector<std::int32_t>{128009});
}

TEST(HfConfig, NewRopeFormEqualsOld) {
  Json json = Json::parse(kLlama32);
  Json rope = json["rope_scaling"];
  rope["rope_theta"] = json["rope_theta"];
  json.erase("rope_scaling");
  json.erase("rope_theta");
  json["rope_parameters"] = rope;
  EXPECT_EQ(to_json(config(json.dump())), to_json(config(kLlama32)));
}

TEST(HfConfig, RopeKeysWeighAsInTransformers) {
  const auto rope_of = [](const std::function<void(Json&)>& change) {
    Json json = Json::parse(kLlama32);
    change(json);
    const ModelSpec spec = config(json.dump());
    return std::tuple(spec.rope_scaling.kind, spec.rope_theta, spec.rope_scaling.original_max_positions);
  };
  using Kind = RopeScaling::Kind;
  const Json parameters = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 2000.0}};
  const auto both = [&](Json& j) { j["rope_parameters"] = parameters; };
  EXPECT_EQ(rope_of(both), std::tuple(Kind::llama3, 500000.0, 8192)) << "rope_scaling goes first";
  for (const Json& empty : {Json(), Json::object()})
    EXPECT_EQ(rope_of([&](Json& j) { both(j), j["rope_scaling"] = empty; }), std::tuple(Kind::linear, 2000.0, 8192));
  EXPECT_EQ(rope_of([](Json& j) { j["rope_scaling"]["rope_theta"] = 3000.0; }), std::tuple(Kind::llama3, 3000.0, 8192));
  EXPECT_EQ(rope_of([](Json& j) { j["original_max_position_embeddings"] = 32; }),
            std::tuple(Kind::llama3, 500000.0, 32));
  EXPECT_EQ(rope_of([](Json& j) { j["rope_scaling"].erase("original_max_position_embeddings"); }),
            std::tuple(Kind::llama3, 500000.0, 131072));
  EXPECT_THROW(rope_of([](Json& j) { j["rope_scaling"]["low_freq_factor"] = 4.0; }), Error);
  EXPECT_THROW(rope_of([](Json& j) { j["rope_scaling"]["original_max_position_embeddings"] = -1; }), Error);
}

TEST(HfConfig, AbsentKeysTakeTheArchitecturesDefaults) {
  const std::string rest =
      R"(,"hidden_size":4096,"intermediate_size":64,"num_hidden_layers":4,"num_attention_heads":32,"vocab_size":100)";
  const ModelSpec llama = config(R"({"model_type":"llama")" + rest + "}");
  EXPECT_EQ(std::pair(llama.kv_heads, llama.head_dim), std::pair(std::int64_t{32}, std::int64_t{128}));
  EXPECT_EQ(llama.rope_theta, 10000);
  EXPECT_FALSE(llama.tied_head || llama.qkv_bias || llama.o_bias || llama.mlp_bias || llama.qk_norm);
  const ModelSpec mistral = config(R"({"model_type":"mistral")" + rest + "}");
  EXPECT_EQ(std::pair(mistral.kv_heads, mistral.sliding_window), std::pair(std::int64_t{8}, std::int64_t{4096}));
  const ModelSpec qwen3 = config(R"({"model_type":"qwen3","num_key_value_heads":8)" + rest + "}");
  EXPECT_EQ(std::pair(qwen3.head_dim, qwen3.qk_norm), std::pair(std::int64_t{128}, true));
  EXPECT_FALSE(qwen3.qkv_bias);
}

TEST(HfConfig, BiasesAndWindowsByFamily) {
  const std::string rest =
      R"(,"hidden_size":64,"intermediate_size":64,"num_hidden_layers":4,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":100,"sliding_window":16)";
  const auto make = [&](const std::string& keys) { return config("{" + keys + rest + "}"); };
  const ModelSpec biased = make(R"("model_type":"llama","attention_bias":true,"mlp_bias":true)");
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
  EXPECT_EQ(biased.sliding_window, 0);
  EXPECT_EQ(make(R"("model_type":"mistral")").sliding_window, 16);
  const ModelSpec qwen2 = make(R"("model_type":"qwen2")");
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.o_bias);
  EXPECT_EQ(qwen2.sliding_window, 0) << "use_sliding_window is false unless said";
  EXPECT_EQ(make(R"("model_type":"qwen2","use_sliding_window":true,"max_window_layers":0)").sliding_window, 16);
  EXPECT_EQ(make(R"("model_type":"qwen2","use_sliding_window":true,"max_window_layers":4)").sliding_window, 0);
  EXPECT_THROW(make(R"("model_type":"qwen2","use_sliding_window":true,"max_window_layers":2)"), Error);
}

TEST(HfConfig, RefusesWhatItDoesNotKnow) {
  const auto message = [](const char* key, const Json& value) -> std::string {
    Json json = Json::parse(kLlama32);
    json[key] = value;
    try {
      config(json.dump());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_MENTIONS(message("model_type", "bloom"), "config.json", "bloom", "llama, mistral, qwen2, qwen3, opt");
  EXPECT_MENTIONS(message("hidden_act", "gelu"), "hidden_act", "gelu");
  EXPECT_MENTIONS(message("rope_scaling", Json{{"rope_type", "yarn"}, {"factor", 4}}), "yarn",
                  "default, linear, llama3");
  EXPECT_MENTIONS(message("quantization_config", Json{{"bits", 4}}), "quantization_config");
  EXPECT_MENTIONS(message("hidden_size", 2048.5), "hidden_size", "2048.5");
  EXPECT_MENTIONS(message("hidden_size", true), "hidden_size");
  EXPECT_MENTIONS(message("eos_token_id", 128256), "eos_token_id", "128256");
  EXPECT_MENTIONS(message("partial_rotary_factor", 0.5), "partial_rotary_factor");
}

const std::string kOpt125m = R"({"_remove_final_layer_norm":false,"activation_dropout":0.0,"activation_function":"relu",
  "architectures":["OPTForCausalLM"],"attention_dropout":0.0,"bos_token_id":2,"do_layer_norm_before":true,"dropout":0.1,
  "eos_token_id":2,"ffn_dim":3072,"hidden_size":768,"init_std":0.02,"layerdrop":0.0,"max_position_embeddings":2048,
  "model_type":"opt","num_attention_heads":12,"num_hidden_layers":12,"pad_token_id":1,"prefix":"</s>","torch_dtype":"float16",
  "use_cache":true,"vocab_size":50272,"word_embed_proj_dim":768})";

TEST(HfConfig, Opt) {
  const ModelSpec spec = config(kOpt125m);
  EXPECT_EQ(spec.family, Family::opt);
  EXPECT_EQ(std::pair(spec.norm, spec.norm_eps), std::pair(NormKind::layer, 1e-5));
  EXPECT_EQ(spec.mlp, MlpKind::relu);
  EXPECT_EQ(std::pair(spec.positions, spec.position_offset), std::pair(PositionKind::learned, std::int64_t{2}));
  EXPECT_EQ(std::tuple(spec.heads, spec.kv_heads, spec.head_dim), std::tuple(12, 12, 64));
  EXPECT_EQ(spec.intermediate, 3072);
  EXPECT_TRUE(spec.tied_head && spec.qkv_bias && spec.o_bias && spec.mlp_bias);
  EXPECT_EQ(spec.eos_ids, std::vector<std::int32_t>{2});
  std::int64_t parameters = 0;
  for (const auto& [name, shape] : required_tensors(spec))
    parameters += std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  EXPECT_EQ(parameters, 125239296) << "what transformers counts";
}

TEST(HfConfig, RefusesOtherFormsOfOpt) {
  const auto message = [](const char* key, const Json& value) -> std::string {
    Json json = Json::parse(kOpt125m);
    json[key] = value;
    try {
      config(json.dump());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      return error.what();
    }
    return "";
  };
  EXPECT_MENTIONS(message("word_embed_proj_dim", 512), "config.json", "word_embed_proj_dim", "768", "512");
  EXPECT_MENTIONS(message("do_layer_norm_before", false), "do_layer_norm_before", "opt-350m");
  EXPECT_MENTIONS(message("_remove_final_layer_norm", true), "_remove_final_layer_norm");
  EXPECT_MENTIONS(message("layer_norm_elementwise_affine", false), "layer_norm_elementwise_affine");
  EXPECT_MENTIONS(message("activation_function", "gelu"), "activation_function", "gelu", "relu");
  EXPECT_MENTIONS(message("num_attention_heads", 11), "num_attention_heads", "768", "11");
  EXPECT_MENTIONS(message("num_attention_heads", 0), "num_attention_heads");
  EXPECT_MENTIONS(message("ffn_dim", nullptr), "ffn_dim", "missing");
  EXPECT_MENTIONS(message("num_hidden_layers", -1), "layers", "-1");
}

}  // namespace
}  // namespace scalebits
