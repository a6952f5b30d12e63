// recipe: every option survives JSON, unknown and ill-typed ones are refused by name, contradictions are refused.
#include "pipeline/recipe.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace scalebits {
namespace {

TEST(Recipe, SurvivesJson) {
  Recipe recipe;
  recipe.bpw = 3.25;
  recipe.embedding = EmbeddingMode::eight_bits;
  recipe.keep = {{"*.v_proj.weight", 4}, {"lm_head.weight", 16}};
  recipe.reordering = Reordering::free;
  recipe.statistic = Statistic::fisher;
  recipe.loss = LossTarget::Kind::kl;
  recipe.score_memory = 0.25;
  const Json json = to_json(recipe);
  EXPECT_EQ(to_json(recipe_from_json(json, {}, "test")), json);
}

TEST(Recipe, EveryOptionIsDocumented) {
  std::ifstream file(SCALEBITS_SOURCE_DIR "/docs/recipe.md");
  std::stringstream page;
  page << file.rdbuf();
  const Json recipe = to_json(Recipe{});
  for (const auto& [key, value] : recipe.items())
    EXPECT_NE(page.str().find("`" + key + "`"), std::string::npos) << key << " is missing from docs/recipe.md";
}

TEST(Recipe, RefusesWhatItDoesNotKnow) {
  const auto message = [](const Json& json) -> std::string {
    try {
      recipe_from_json(json, {}, "file.json");
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_NE(message({{"descent_stpes", 3}}).find("descent_stpes"), std::string::npos);
  EXPECT_NE(message({{"block_rows", (std::int64_t{1} << 32) + 16}}).find("block_rows"), std::string::npos);
  EXPECT_NE(message({{"seed", "one"}}).find("seed"), std::string::npos);
  EXPECT_NE(message({{"reordering", "sideways"}}).find("sideways"), std::string::npos);
  EXPECT_NE(message(Json::array()).find("file.json"), std::string::npos);
}

TEST(Recipe, RefusesContradictions) {
  const auto refused = [](auto&& spoil) {
    Recipe recipe;
    recipe.budget_bytes = 1 << 20;
    spoil(recipe);
    EXPECT_THROW(validate(recipe), Error);
  };
  EXPECT_NO_THROW(validate([] {
    Recipe r;
    r.budget_bytes = 1;
    return r;
  }()));
  refused([](Recipe& r) { r.bpw = 3; });
  refused([](Recipe& r) { r.budget_bytes.reset(); });
  refused([](Recipe& r) { r.min_width = 5, r.max_width = 4; });
  refused([](Recipe& r) { r.score_memory = 1; });
  refused([](Recipe& r) { r.statistic = Statistic::signed_sum; });
  refused([](Recipe& r) { r.order_statistic = Statistic::signed_sum, r.order_gradient = GradientKind::tokens; });
  refused([](Recipe& r) { r.window_length = 1; });
  refused([](Recipe& r) { r.tune.side_rate = -1; });
  refused([](Recipe& r) { r.tune.steps = 0; });
  refused([](Recipe& r) { r.keep = {{"*", 12}}; });
  refused([](Recipe& r) { r.budget_bytes.reset(), r.bpw = 3, r.embedding = EmbeddingMode::search; });
}

TEST(Recipe, TheLastMatchingRuleWins) {
  Recipe recipe;
  recipe.keep = {{"*", 3}, {"*.layers.*.v_proj.weight", 5}};
  EXPECT_EQ(kept_bits(recipe, "model.layers.0.self_attn.v_proj.weight"), 5);
  EXPECT_EQ(kept_bits(recipe, "model.layers.0.self_attn.q_proj.weight"), 3);
  recipe.keep = {{"lm_head*", 3}};
  EXPECT_EQ(kept_bits(recipe, "model.norm.weight"), std::nullopt);
}

}  // namespace
}  // namespace scalebits
