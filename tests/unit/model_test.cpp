// model: a specification survives JSON, lists its tensors, and refuses nonsense.
#include "model/checkpoint.h"
#include "model/model_spec.h"

#include <gtest/gtest.h>

#include <functional>

namespace scalebits {
namespace {

ModelSpec small_spec() {
  ModelSpec spec;
  spec.layers = 2, spec.hidden = 64, spec.intermediate = 172, spec.heads = 8, spec.kv_heads = 4, spec.head_dim = 8;
  spec.vocab = 512, spec.max_positions = 128, spec.eos_ids = {2};
  return spec;
}

TEST(ModelSpec, SurvivesJson) {
  ModelSpec spec = small_spec();
  spec.family = Family::qwen3;
  spec.qk_norm = true;
  spec.rope_scaling = {RopeScaling::Kind::llama3, 32, 1, 4, 8192};
  const ModelSpec back = model_spec_from_json(to_json(spec), "test");
  EXPECT_EQ(to_json(back), to_json(spec));
}

ModelSpec opt_like_spec() {
  ModelSpec spec = small_spec();
  spec.family = Family::opt;
  spec.norm = NormKind::layer, spec.mlp = MlpKind::relu;
  spec.positions = PositionKind::learned, spec.position_offset = 2;
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = spec.tied_head = true;
  return spec;
}

TEST(ModelSpec, WhatIsNotLlamasWaySurvivesJson) {
  const ModelSpec spec = opt_like_spec();
  const ModelSpec back = model_spec_from_json(to_json(spec), "test");
  EXPECT_EQ(back.norm, NormKind::layer);
  EXPECT_EQ(back.mlp, MlpKind::relu);
  EXPECT_EQ(back.positions, PositionKind::learned);
  EXPECT_EQ(back.position_offset, 2);
  EXPECT_EQ(to_json(back), to_json(spec));
  for (const char* key : {"norm", "mlp", "positions"}) {
    Json json = to_json(spec);
    json[key] = "other";
    EXPECT_THROW(model_spec_from_json(json, "test"), Error) << key;
    EXPECT_FALSE(to_json(small_spec()).contains(key)) << "files from before would be other bytes";
  }
}

TEST(ModelSpec, CountsTheLinearLayersThatThereAre) {
  const ModelSpec gated = small_spec(), ungated = opt_like_spec();
  for (const ModelSpec& spec : {gated, ungated}) {
    std::size_t index = 0;
    for (std::int64_t layer = 0; layer < spec.layers; ++layer)
      for (const LinearKind kind : linear_kinds(spec)) EXPECT_EQ(linear_index(spec, layer, kind), index++);
    EXPECT_EQ(linear_count(spec), index);
  }
  EXPECT_EQ(linear_count(gated), 14u);
  EXPECT_EQ(linear_count(ungated), 12u);
  EXPECT_EQ(mlp_inputs(gated).size(), 2u);
  ASSERT_EQ(mlp_inputs(ungated).size(), 1u);
  EXPECT_EQ(mlp_inputs(ungated)[0], LinearKind::up);
  EXPECT_THROW(linear_index(ungated, 0, LinearKind::gate), InternalError);
  // 6 linear layers and 2 norms with their biases; embedding, positions, final norm with its bias.
  EXPECT_EQ(required_tensors(ungated).size(), 2u * (12 + 4) + 2 + 2);
}

TEST(ModelSpec, ListsEachTensorOnce) {
  ModelSpec spec = small_spec();
  spec.qkv_bias = true;
  const auto tensors = required_tensors(spec);
  EXPECT_EQ(tensors.size(), 1u + 2 * (7 + 2 + 3) + 1 + 1);
  spec.tied_head = true;
  EXPECT_EQ(required_tensors(spec).size(), tensors.size() - 1);
}

TEST(ModelSpec, RefusesNonsense) {
  for (const auto& spoil : std::vector<std::function<void(ModelSpec&)>>{
           [](ModelSpec& s) { s.layers = 0; }, [](ModelSpec& s) { s.kv_heads = 3; },
           [](ModelSpec& s) { s.head_dim = 7; }, [](ModelSpec& s) { s.vocab = std::int64_t{1} << 40; },
           [](ModelSpec& s) { s.norm_eps = 0; }, [](ModelSpec& s) { s.position_offset = -1; }}) {
    ModelSpec spec = small_spec();
    spoil(spec);
    EXPECT_THROW(validate(spec, "test"), Error);
  }
  EXPECT_THROW(family_from_name("bloom", "config.json"), Error);
}

TEST(ModelSpec, ReadsNoNumberLoosely) {
  ModelSpec spec = small_spec();
  spec.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 512};
  const Json good = to_json(spec);
  EXPECT_NO_THROW(model_spec_from_json(good, "test"));
  for (const auto& spoil : std::vector<std::function<void(Json&)>>{
           [](Json& j) { j["layers"] = 5.7; }, [](Json& j) { j["heads"] = true; }, [](Json& j) { j["eos_ids"] = {-5}; },
           [](Json& j) { j["eos_ids"] = {std::int64_t{1} << 40}; }, [](Json& j) { j["eos_ids"] = {512}; },
           [](Json& j) { j["eos_ids"] = {1.5}; }, [](Json& j) { j["eos_ids"] = 2; },
           [](Json& j) { j["rope_scaling"]["high_freq_factor"] = 1; },
           [](Json& j) { j["rope_scaling"]["low_freq_factor"] = 0; },
           [](Json& j) { j["rope_scaling"]["original_max_positions"] = -1; }}) {
    Json json = good;
    spoil(json);
    EXPECT_THROW(model_spec_from_json(json, "test"), Error) << json.dump();
  }
}

TEST(HostTensor, ConvertsEachType) {
  const HostTensor f32 = HostTensor::from_f32({2, 2}, {1, -2, 0.5f, 3});
  EXPECT_EQ(f32.to_f32(), (std::vector<float>{1, -2, 0.5f, 3}));
  auto bits = std::make_shared<std::vector<std::uint16_t>>(std::vector<std::uint16_t>{0x3f80, 0xc000});
  const HostTensor bf16{DType::bf16, {2}, std::as_bytes(std::span(*bits)), bits};
  EXPECT_EQ(bf16.to_f32(), (std::vector<float>{1, -2}));
}

}  // namespace
}  // namespace scalebits
