#include "train/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace scalebits {
namespace {

constexpr double kWidth = 900, kHeight = 520, kLeft = 70, kRight = 20, kTop = 40, kBottom = 50;
constexpr const char* kColours[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
                                    "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22"};

struct Axis {
  double low, high, from, to;  // of the values; on the page
  double place(double value) const { return from + (value - low) / (high - low) * (to - from); }
};

Axis spanning(double low, double high, double from, double to) {
  if (!(low < high)) low -= 0.5, high += 0.5;
  return {low, high, from, to};
}

/// 1, 2 or 5 times a power of ten, about six of them on the axis.
double tick_step(const Axis& axis) {
  const double rough = (axis.high - axis.low) / 6, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough) return factor * power;
  return 10 * power;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

}  // namespace

std::string loss_plot_svg(const std::string& title, const std::vector<LossCurve>& curves) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double first = kInfinity, last = -kInfinity, lowest = kInfinity, highest = -kInfinity;
  for (const LossCurve& curve : curves)
    for (const auto& [step, loss] : curve.points) {
      first = std::min(first, step), last = std::max(last, step);
      lowest = std::min(lowest, loss), highest = std::max(highest, loss);
    }
  if (first > last) first = 0, last = 1, lowest = 0, highest = 1;
  const Axis x = spanning(first, last, kLeft, kWidth - kRight);
  const Axis y = spanning(lowest, highest, kHeight - kBottom, kTop);
  std::string svg = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" font-family="sans-serif" font-size="12">)"
      "\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      R"(<text x="{2}" y="22" font-size="15">{3}</text>)"
      "\n",
      kWidth, kHeight, kLeft, escaped(title));
  const double x_step = tick_step(x), y_step = tick_step(y);
  for (double tick = std::ceil(x.low / x_step) * x_step; tick <= x.high; tick += x_step)
    svg += fmt::format(
        "<path d=\"M{0:.1f} {1}V{2}\" stroke=\"#ddd\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:g}</text>\n",
        x.place(tick), kTop, kHeight - kBottom, kHeight - kBottom + 18, tick);
  for (double tick = std::ceil(y.low / y_step) * y_step; tick <= y.high; tick += y_step)
    svg += fmt::format(
        "<path d=\"M{0} {1:.1f}H{2}\" stroke=\"#ddd\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:.4g}</text>\n",
        kLeft, y.place(tick), kWidth - kRight, kLeft - 6, y.place(tick) + 4, tick);
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>\n", kWidth / 2, kHeight - 12);
  std::size_t number = 0;
  for (const LossCurve& curve : curves) {
    if (curve.points.empty()) continue;
    const char* const colour = kColours[number % std::size(kColours)];
    std::string path;
    for (const auto& [step, loss] : curve.points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x.place(step), y.place(loss));
    const double row = kTop + 16 * static_cast<double>(number) + 8;
    svg += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n", path, colour);
    svg +=
        fmt::format("<path d=\"M{0} {1}h24\" stroke=\"{2}\" stroke-width=\"3\"/><text x=\"{3}\" y=\"{4}\">{5}</text>\n",
                    kWidth - 230, row, colour, kWidth - 200, row + 4, escaped(curve.name));
    ++number;
  }
  return svg + "</svg>\n";
}

}  // namespace scalebits
