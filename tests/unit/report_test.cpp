// report: points land where their values say, on both kinds of axes; names cannot break the file.
#include "report/plot.h"

#include "core/error.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

namespace scalebits {
namespace {

std::vector<std::pair<double, double>> dots(const std::string& svg) {
  std::vector<std::pair<double, double>> found;
  const std::regex circle("<circle cx=\"([0-9.]+)\" cy=\"([0-9.]+)\"");
  for (auto at = std::sregex_iterator(svg.begin(), svg.end(), circle); at != std::sregex_iterator(); ++at)
    found.emplace_back(std::stod((*at)[1]), std::stod((*at)[2]));
  return found;
}

TEST(Plot, PlacesPointsByTheirValuesOrLogarithms) {
  Plot plot{.title = "t", .series = {{.name = "a", .points = {{1, 10}, {2, 100}, {5, 1000}}}}};
  for (const bool logarithmic : {false, true}) {
    plot.log_y = logarithmic;
    const auto placed = dots(svg_of(plot));
    ASSERT_EQ(placed.size(), 3u);
    const auto part = [&](auto value) {
      return (value(placed[1]) - value(placed[0])) / (value(placed[2]) - value(placed[0]));
    };
    EXPECT_NEAR(part([](const auto& p) { return p.first; }), 0.25, 1e-3);
    EXPECT_NEAR(part([](const auto& p) { return p.second; }), logarithmic ? 0.5 : 90.0 / 990, 1e-3);
    EXPECT_LT(placed[2].second, placed[0].second) << "larger values lie higher on the page";
  }
}

TEST(Plot, CopesWithOnePointNoPointAndNames) {
  const std::string svg = svg_of(
      {.title = "a < b & c", .log_y = true, .series = {{.name = "<x>", .points = {{2, 3}}}, {.name = "absent"}}});
  EXPECT_EQ(dots(svg).size(), 1u);
  EXPECT_NE(svg.find("a &lt; b &amp; c"), std::string::npos);
  EXPECT_EQ(svg.find("absent"), std::string::npos);
  EXPECT_NE(svg_of({}).find("</svg>"), std::string::npos);
  EXPECT_THROW(svg_of({.log_y = true, .series = {{.name = "x", .points = {{1, 0}}}}}), InternalError);
}

TEST(Plot, AFamilyHasAColourAndItsSeriesDiffer) {
  const std::vector<std::pair<double, double>> points = {{1, 1}, {2, 2}};
  const std::string svg = svg_of({.series = {{.name = "a, fine", .points = points, .family = "a"},
                                             {.name = "b", .points = points},
                                             {.name = "a, rough", .points = points, .family = "a"}}});
  const std::regex line("<path d=\"[^\"]*\" fill=\"none\" (stroke=\"#[0-9a-f]+\") stroke-width=\"1.5\"([^/]*)/>");
  std::vector<std::pair<std::string, std::string>> pens;
  for (auto at = std::sregex_iterator(svg.begin(), svg.end(), line); at != std::sregex_iterator(); ++at)
    pens.emplace_back((*at)[1], (*at)[2]);
  ASSERT_EQ(pens.size(), 3u);
  EXPECT_EQ(pens[0].first, pens[2].first);
  EXPECT_NE(pens[0].first, pens[1].first);
  EXPECT_EQ(pens[0].second, "");
  EXPECT_NE(pens[0].second, pens[2].second);
}

}  // namespace
}  // namespace scalebits
