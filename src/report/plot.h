// Curves on two axes as one SVG file that needs nothing else: loss over steps, quality over size.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace scalebits {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // (x, y) in the order in which they are joined; finite
  bool joined = true;                             // false: dots alone
  std::vector<std::string> labels;                // of the points; fewer are fine
  std::string family;                             // series of one share a colour and differ by dashes; empty: none
};

struct Plot {
  std::string title, x_label, y_label;
  bool log_y = false;  // then every y must be positive
  std::vector<Series> series;
};

/// The whole file; series without points are left out, axes span the rest. InternalError for points that cannot be
/// placed.
std::string svg_of(const Plot& plot);

}  // namespace scalebits
