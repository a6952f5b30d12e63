#include "bench/width_mix.h"

#include "core/error.h"
#include "core/random.h"

#include <charconv>
#include <cmath>
#include <numeric>

namespace scalebits {
namespace {

template <typename Number>
Number number_from(std::string_view text, std::string_view whole) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(ErrorKind::usage, "widths '{}': wanted WIDTH or WIDTH:SHARE,…, found '{}'", whole, text);
  return value;
}

}  // namespace

WidthMix WidthMix::uniform(int width) {
  WidthMix mix;
  mix.share.at(static_cast<std::size_t>(width)) = 1;
  return mix;
}

WidthMix WidthMix::parse(std::string_view text) {
  WidthMix mix;
  double sum = 0;
  for (std::string_view rest = text;;) {
    const std::string_view item = rest.substr(0, rest.find(','));
    const std::size_t colon = item.find(':');
    const int width = number_from<int>(item.substr(0, colon), text);
    if (width < 0 || width > kMaxWidth)
      fail(ErrorKind::usage, "widths '{}': a width is 0 to {}, found {}", text, kMaxWidth, width);
    const double share = colon == std::string_view::npos ? 1 : number_from<double>(item.substr(colon + 1), text);
    double& kept = mix.share[static_cast<std::size_t>(width)];
    if (kept != 0) fail(ErrorKind::usage, "widths '{}': width {} is named twice", text, width);
    if (!(share > 0)) fail(ErrorKind::usage, "widths '{}': a share must be positive, found {}", text, share);
    kept = share;
    sum += share;
    if (item.size() == rest.size()) break;
    rest.remove_prefix(item.size() + 1);
  }
  if (!(std::abs(sum - 1) < 1e-6)) fail(ErrorKind::usage, "widths '{}': shares must add up to 1, found {}", text, sum);
  return mix;
}

std::string WidthMix::text() const {
  std::string text;
  for (std::size_t width = 0; width < share.size(); ++width) {
    if (share[width] == 1) return std::to_string(width);
    if (share[width] > 0) text += fmt::format("{}{}:{:.4g}", text.empty() ? "" : ",", width, share[width]);
  }
  return text;
}

double WidthMix::mean_width() const {
  double mean = 0;
  for (std::size_t width = 0; width < share.size(); ++width) mean += static_cast<double>(width) * share[width];
  return mean;
}

std::vector<std::uint32_t> random_order(std::int64_t count, std::uint64_t seed, std::uint64_t stream) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0u);
  const CounterRng random(seed, stream);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i, i)]);
  return order;
}

std::vector<std::uint8_t> random_widths(const MatrixFormat& format, const WidthMix& mix, std::uint64_t seed,
                                        std::uint64_t stream) {
  const std::vector<std::uint32_t> places = random_order(format.block_count(), seed, stream);
  std::vector<std::uint8_t> widths(places.size());
  double before = 0;
  std::size_t next = 0;
  for (std::size_t width = 0; width < mix.share.size(); ++width) {
    before += mix.share[width];
    const auto end = std::min(places.size(), static_cast<std::size_t>(std::llround(before * double(places.size()))));
    for (; next < end; ++next) widths[places[next]] = static_cast<std::uint8_t>(width);
  }
  SCALEBITS_ASSERT(next == places.size());
  return widths;
}

SideFormat random_side_format(std::int64_t cols) {
  SideFormat side{.scale_bits = 6, .zero_bits = 4, .scale_base = 1, .scale_step_log2 = 0.125f, .zero_range = 0.25f};
  double squares = 0;
  for (int code = 0; code < 1 << side.scale_bits; ++code) squares += std::pow(range_value(side, code), 2);
  // Codes spread evenly over a range of 1 have the variance 1/12.
  side.scale_base =
      static_cast<float>(std::sqrt(12.0 * (1 << side.scale_bits) / (squares * static_cast<double>(cols))));
  return side;
}

}  // namespace scalebits
