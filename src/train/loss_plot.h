// A plot of loss curves as one SVG file that needs nothing else.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace scalebits {

struct LossCurve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // step, loss; steps ascending
};

/// The whole file; curves without points are left out. Axes span what the curves do.
std::string loss_plot_svg(const std::string& title, const std::vector<LossCurve>& curves);

}  // namespace scalebits
