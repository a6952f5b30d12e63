#include "report/plot.h"

#include "core/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

namespace scalebits {
namespace {

constexpr double kWidth = 960, kHeight = 560, kLeft = 70, kRight = 230, kTop = 40, kBottom = 50;
constexpr std::array kColours = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
                                 "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22"};
constexpr std::array kDashes = {"", " stroke-dasharray=\"7 4\"", " stroke-dasharray=\"2 3\""};

/// What tells a series from the others: those of one family have a colour in common.
struct Pen {
  const char *colour, *dashes;
};

std::vector<Pen> pens_for(const std::vector<Series>& all) {
  std::map<std::string, std::pair<std::size_t, std::size_t>> families;  // number among them, series so far
  std::vector<Pen> pens;
  for (const Series& series : all) {
    const std::string family = series.family.empty() ? series.name : series.family;
    auto& [number, count] = families.try_emplace(family, families.size(), 0).first->second;
    pens.push_back({kColours[number % kColours.size()], kDashes[count++ % kDashes.size()]});
  }
  return pens;
}

/// Values on the page, by their logarithm or as they are.
class Axis {
 public:
  Axis(double low, double high, double from, double to, bool logarithmic)
      : low_(low), high_(high), from_(from), to_(to), logarithmic_(logarithmic) {
    if (!(low_ < high_)) low_ *= logarithmic ? 0.8 : 1, high_ *= logarithmic ? 1.25 : 1;
    if (!(low_ < high_)) low_ -= 0.5, high_ += 0.5;
  }
  double place(double value) const {
    return from_ + (scaled(value) - scaled(low_)) / (scaled(high_) - scaled(low_)) * (to_ - from_);
  }

  /// 1, 2 or 5 times powers of ten: about six of them, or on a logarithmic axis all that lie on it.
  std::vector<double> ticks() const {
    std::vector<double> found;
    if (logarithmic_) {
      for (double power = std::pow(10.0, std::floor(std::log10(low_))); power <= high_; power *= 10)
        for (const double factor : {1.0, 2.0, 5.0})
          if (factor * power >= low_ && factor * power <= high_) found.push_back(factor * power);
      return found;
    }
    const double rough = (high_ - low_) / 6, power = std::pow(10.0, std::floor(std::log10(rough)));
    double step = 10 * power;
    for (const double factor : {5.0, 2.0, 1.0})
      if (factor * power >= rough) step = factor * power;
    for (double tick = std::ceil(low_ / step); tick * step <= high_; ++tick) found.push_back(tick * step);
    return found;
  }

 private:
  double scaled(double value) const { return logarithmic_ ? std::log(value) : value; }
  double low_, high_, from_, to_;
  bool logarithmic_;
};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

std::string drawn(const Series& series, const Pen& pen, const Axis& x, const Axis& y) {
  std::string path, dots;
  for (std::size_t i = 0; i < series.points.size(); ++i) {
    const double across = x.place(series.points[i].first), down = y.place(series.points[i].second);
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", across, down);
    if (!series.joined || series.points.size() < 50)
      dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", across, down, pen.colour);
    if (i < series.labels.size())
      dots += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"10\" fill=\"{}\">{}</text>\n", across + 5,
                          down - 4, pen.colour, escaped(series.labels[i]));
  }
  if (!series.joined) return dots;
  return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{}/>\n", path, pen.colour,
                     pen.dashes) +
         dots;
}

}  // namespace

std::string svg_of(const Plot& plot) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double left = kInfinity, right = -kInfinity, lowest = kInfinity, highest = -kInfinity;
  for (const Series& series : plot.series)
    for (const auto& [x, y] : series.points) {
      SCALEBITS_ASSERT(std::isfinite(x) && std::isfinite(y) && (!plot.log_y || y > 0));
      left = std::min(left, x), right = std::max(right, x);
      lowest = std::min(lowest, y), highest = std::max(highest, y);
    }
  if (left > right) left = 0, right = 1, lowest = 1, highest = 2;
  const Axis x(left, right, kLeft, kWidth - kRight, false), y(lowest, highest, kHeight - kBottom, kTop, plot.log_y);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"22\" font-size=\"15\">{3}</text>\n",
      kWidth, kHeight, kLeft, escaped(plot.title));
  for (const double tick : x.ticks())
    svg += fmt::format(
        "<path d=\"M{0:.1f} {1}V{2}\" stroke=\"#ddd\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:g}</text>\n",
        x.place(tick), kTop, kHeight - kBottom, kHeight - kBottom + 18, tick);
  for (const double tick : y.ticks())
    svg += fmt::format(
        "<path d=\"M{0} {1:.1f}H{2}\" stroke=\"#ddd\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:g}</text>\n",
        kLeft, y.place(tick), kWidth - kRight, kLeft - 6, y.place(tick) + 4, tick);
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kWidth - kRight) / 2,
                     kHeight - 12, escaped(plot.x_label));
  svg += fmt::format("<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                     (kTop + kHeight - kBottom) / 2, escaped(plot.y_label));
  std::vector<Series> shown;
  for (const Series& series : plot.series)
    if (!series.points.empty()) shown.push_back(series);
  const std::vector<Pen> pens = pens_for(shown);
  for (std::size_t i = 0; i < shown.size(); ++i) {
    const double row = kTop + 16 * static_cast<double>(i) + 8;
    svg += drawn(shown[i], pens[i], x, y);
    svg += fmt::format(
        "<path d=\"M{0} {1}h26\" stroke=\"{2}\" stroke-width=\"2.5\"{6}/><text x=\"{3}\" y=\"{4}\">{5}</text>\n",
        kWidth - kRight + 14, row, pens[i].colour, kWidth - kRight + 46, row + 4, escaped(shown[i].name),
        pens[i].dashes);
  }
  return svg + "</svg>\n";
}

}  // namespace scalebits
