#include "kernels/linear.h"

#include "core/error.h"

#include <algorithm>
#include <cstring>

namespace scalebits {
namespace {

std::int64_t units_of(const Linear& linear, std::int64_t unit_rows) { return divide_up(linear.rows(), unit_rows); }

/// What the first `units` of a matrix cost, in bytes; a little is added so that rows without any bytes cost something,
/// too.
std::uint64_t cost_of(const Linear& linear, std::int64_t unit_rows, std::int64_t units) {
  if (const auto* packed = std::get_if<PackedWeights>(&linear.weights)) {
    const std::int64_t tile_rows = std::min(units * (unit_rows / kTileRows), packed->format().tile_row_count());
    return packed->bytes_before()[static_cast<std::size_t>(tile_rows)] + static_cast<std::uint64_t>(64 * tile_rows);
  }
  const auto& dense = std::get<DenseWeights>(linear.weights);
  return static_cast<std::uint64_t>(units * unit_rows * dense.cols) * size_bytes(dense.dtype);
}

/// The unit, counted over all outputs, before which `cost` is reached.
std::int64_t unit_at(std::span<const LinearOutput> outputs, std::int64_t unit_rows, std::uint64_t cost) {
  std::int64_t before = 0;
  for (const LinearOutput& output : outputs) {
    const std::int64_t units = units_of(*output.linear, unit_rows);
    if (const std::uint64_t whole = cost_of(*output.linear, unit_rows, units); whole < cost) {
      cost -= whole;
      before += units;
      continue;
    }
    std::int64_t low = 0, high = units;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (cost_of(*output.linear, unit_rows, middle) < cost)
        low = middle + 1;
      else
        high = middle;
    }
    return before + low;
  }
  return before;
}

/// Work is shared out in whole stripes, which a thread reads from end to end, or in tile rows where stripes are few.
constexpr std::int64_t kStripeRows = 64;

bool has_row_order(const Linear& linear) {
  const auto* packed = std::get_if<PackedWeights>(&linear.weights);
  return packed != nullptr && !packed->row_order().empty();
}

/// Fewer activations are gathered by one thread: the others would wait for each other as long.
constexpr std::int64_t kGatherAlone = 2048;
/// So many elements one thread scatters before another has woken up.
constexpr std::int64_t kScatterAlone = 8192;

void dense_row(const DenseWeights& dense, std::int64_t row, std::span<float> out) {
  const std::size_t size = size_bytes(dense.dtype);
  const std::byte* from = dense.bytes.data() + static_cast<std::size_t>(row * dense.cols) * size;
  for (float& value : out) {
    if (dense.dtype == DType::f32) {
      std::memcpy(&value, from, sizeof value);
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, from, sizeof bits);
      value = dense.dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    from += size;
  }
}

}  // namespace

std::int64_t Linear::rows() const {
  if (const auto* packed = std::get_if<PackedWeights>(&weights)) return packed->format().rows;
  return std::get<DenseWeights>(weights).rows;
}

std::int64_t Linear::cols() const {
  if (const auto* packed = std::get_if<PackedWeights>(&weights)) return packed->format().cols;
  return std::get<DenseWeights>(weights).cols;
}

std::uint64_t Linear::bytes() const {
  if (const auto* packed = std::get_if<PackedWeights>(&weights)) return packed->matrix().blob().size();
  return std::get<DenseWeights>(weights).bytes.size();
}

void Linear::row(std::int64_t index, std::span<float> out) const {
  SCALEBITS_ASSERT(index >= 0 && index < rows() && out.size() == static_cast<std::size_t>(cols()));
  if (const auto* dense = std::get_if<DenseWeights>(&weights)) return dense_row(*dense, index, out);
  const auto& packed = std::get<PackedWeights>(weights);
  if (const auto order = packed.row_order(); !order.empty())
    index = std::find(order.begin(), order.end(), static_cast<std::uint32_t>(index)) - order.begin();
  if (packed.input_order().empty()) return packed.matrix().dequantize_rows(index, 1, out);
  std::vector<float> stored(out.size());
  packed.matrix().dequantize_rows(index, 1, stored);
  for (std::size_t j = 0; j < stored.size(); ++j) out[packed.input_order()[j]] = stored[j];
}

const Activations& LinearRunner::gather_for(const PackedWeights& weights, std::int64_t n) {
  const int group = weights.activation_group();
  for (std::size_t i = 0; i < gathers_; ++i) {
    const Gather& other = scratch_[i];
    if (other.order.data() == weights.input_order().data() && other.x.group == group) return other.x;
  }
  if (scratch_.size() == gathers_) scratch_.emplace_back();
  Gather& gather = scratch_[gathers_++];
  gather.order = weights.input_order();
  gather.inputs = weights.format().cols;
  gather.x.resize(format_, n, gather.inputs, group);
  return gather.x;
}

void LinearRunner::gather(const float* x, std::int64_t x_stride, int part, int parts) {
  for (std::size_t i = 0; i < gathers_; ++i) {
    Gather& gather = scratch_[i];
    const std::int64_t groups = gather.x.rows * gather.x.groups();
    kernels_.gather(format_).run(
        {x, x_stride, gather.inputs, gather.order, groups * part / parts, groups * (part + 1) / parts, &gather.x});
  }
}

void LinearRunner::run(std::span<const LinearOutput> outputs, const float* x, std::int64_t n, std::int64_t x_stride) {
  if (n == 0) return;
  gathers_ = 0;
  inputs_.clear();
  std::int64_t stripes = 0;
  std::size_t unordered = 0;
  for (const LinearOutput& output : outputs) {
    const auto* packed = std::get_if<PackedWeights>(&output.linear->weights);
    inputs_.push_back(packed == nullptr ? nullptr : &gather_for(*packed, n));
    stripes += units_of(*output.linear, kStripeRows);
    if (has_row_order(*output.linear)) unordered += static_cast<std::size_t>(n * output.linear->rows());
  }
  unordered_.reserve(unordered);
  unit_rows_ = stripes >= 4 * threads_.size() ? kStripeRows : kTileRows;
  std::uint64_t total = 0;
  for (const LinearOutput& output : outputs)
    total += cost_of(*output.linear, unit_rows_, units_of(*output.linear, unit_rows_));
  std::int64_t end = 0;
  for (int thread = 0; thread < threads_.size(); ++thread) {
    const std::int64_t first = end;
    const auto cost = total * static_cast<std::uint64_t>(thread + 1) / static_cast<std::uint64_t>(threads_.size());
    shares_.set(thread, {first, end = std::max(first, unit_at(outputs, unit_rows_, cost))});
  }
  const bool gather_together = gathers_ > 0 && threads_.size() > 1 && n * x_stride >= kGatherAlone;
  if (!gather_together) gather(x, x_stride, 0, 1);
  threads_.run([&](int thread) {
    if (gather_together) {
      gather(x, x_stride, thread, threads_.size());
      threads_.meet();
    }
    const auto compute_units = [&](WorkRange units) { compute(outputs, x, n, x_stride, units); };
    if (n > 1) {  // kernels interleave the rows of x anew in each call
      if (const auto units = shares_.take_all(thread)) compute_units(*units);
    } else {
      while (const auto units = shares_.take(thread)) compute_units(*units);
    }
  });
  scatter(outputs, n);
}

void LinearRunner::compute(std::span<const LinearOutput> outputs, const float* x, std::int64_t n, std::int64_t x_stride,
                           WorkRange units) {
  float* stored = unordered_.data();
  for (std::size_t o = 0; o < outputs.size() && units.last > 0; ++o) {
    const LinearOutput& output = outputs[o];
    const std::int64_t rows = output.linear->rows(), all = units_of(*output.linear, unit_rows_),
                       first = std::max<std::int64_t>(units.first, 0) * unit_rows_,
                       last = std::min(units.last * unit_rows_, rows);
    units.first -= all;
    units.last -= all;
    const bool in_order = !has_row_order(*output.linear);
    float* const y = in_order ? output.y : stored;
    const std::int64_t y_stride = in_order ? output.y_stride : rows;
    if (!in_order) stored += n * rows;
    if (first >= last) continue;
    if (inputs_[o] != nullptr)
      kernels_.packed(format_, n)
          .run({&std::get<PackedWeights>(output.linear->weights), inputs_[o], first / kTileRows,
                divide_up(last, kTileRows), y, y_stride});
    else
      kernels_.dense->run({&std::get<DenseWeights>(output.linear->weights), x, n, x_stride, first, last, y, y_stride});
  }
}

void LinearRunner::scatter(std::span<const LinearOutput> outputs, std::int64_t n) {
  const float* stored = unordered_.data();
  for (const LinearOutput& output : outputs) {
    if (!has_row_order(*output.linear)) continue;
    const std::span<const std::uint32_t> order = std::get<PackedWeights>(output.linear->weights).row_order();
    const auto rows = static_cast<std::int64_t>(order.size());
    const auto scatter_row = [&](std::int64_t i) {
      for (std::int64_t r = 0; r < rows; ++r)
        output.y[i * output.y_stride + order[static_cast<std::size_t>(r)]] = stored[i * rows + r];
    };
    if (n * rows < kScatterAlone)
      for (std::int64_t i = 0; i < n; ++i) scatter_row(i);
    else
      threads_.for_each(n, scatter_row);
    stored += n * rows;
  }
}

}  // namespace scalebits
