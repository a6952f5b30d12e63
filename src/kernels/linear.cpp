#include "kernels/linear.h"

#include "core/error.h"

#include <algorithm>
#include <cstring>

namespace scalebits {
namespace {

/// Rows are shared out in units of 16.
std::int64_t units_of(const Linear& linear) { return divide_up(linear.rows(), kTileRows); }

/// What `units` of 16 rows cost, in bytes; a little is added so that rows without any bytes cost something, too.
std::uint64_t cost_of(const Linear& linear, std::int64_t units) {
  const auto count = static_cast<std::uint64_t>(units);
  if (const auto* packed = std::get_if<PackedWeights>(&linear.weights))
    return packed->bytes_before()[count] + 64 * count;
  const auto& dense = std::get<DenseWeights>(linear.weights);
  return count * static_cast<std::uint64_t>(kTileRows * dense.cols) * size_bytes(dense.dtype);
}

/// The unit before which `cost` is reached.
std::int64_t unit_at(const Linear& linear, std::uint64_t cost) {
  std::int64_t low = 0, high = units_of(linear);
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (cost_of(linear, middle) < cost)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

bool has_row_order(const Linear& linear) {
  const auto* packed = std::get_if<PackedWeights>(&linear.weights);
  return packed != nullptr && !packed->row_order().empty();
}

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

const Activations& LinearRunner::gathered(const PackedWeights& weights, const float* x, std::int64_t n,
                                          std::int64_t x_stride) {
  const int group = weights.activation_group();
  for (std::size_t i = 0; i < gathers_; ++i) {
    const Gather& done = scratch_[i];
    if (done.order.data() == weights.input_order().data() && done.x.group == group) return done.x;
  }
  if (scratch_.size() == gathers_) scratch_.emplace_back();
  Gather& gather = scratch_[gathers_++];
  gather.order = weights.input_order();
  gather.x.resize(format_, n, weights.format().cols, group);
  GatherTask task{x, x_stride, weights.format().cols, gather.order, 0, n, &gather.x};
  const auto run = kernels_.gather(format_).run;
  if (n < 4 || threads_.size() == 1) {
    run(task);
    return gather.x;
  }
  threads_.run([&](int thread) {
    GatherTask part = task;
    part.first = n * thread / threads_.size();
    part.last = n * (thread + 1) / threads_.size();
    run(part);
  });
  return gather.x;
}

void LinearRunner::run(std::span<const LinearOutput> outputs, const float* x, std::int64_t n, std::int64_t x_stride) {
  if (n == 0) return;
  gathers_ = 0;
  inputs_.clear();
  std::uint64_t total = 0;
  std::size_t unordered = 0;
  for (const LinearOutput& output : outputs) {
    const auto* packed = std::get_if<PackedWeights>(&output.linear->weights);
    inputs_.push_back(packed == nullptr ? nullptr : &gathered(*packed, x, n, x_stride));
    total += cost_of(*output.linear, units_of(*output.linear));
    if (has_row_order(*output.linear)) unordered += static_cast<std::size_t>(n * output.linear->rows());
  }
  unordered_.reserve(unordered);
  const auto packed_run = kernels_.packed(format_, n).run;
  const auto compute = [&](int thread) {
    const auto size = static_cast<std::uint64_t>(threads_.size()), index = static_cast<std::uint64_t>(thread);
    const std::uint64_t first = total * index / size, last = total * (index + 1) / size;
    std::uint64_t before = 0;
    float* stored = unordered_.data();
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      const LinearOutput& output = outputs[o];
      const std::uint64_t cost = cost_of(*output.linear, units_of(*output.linear)), after = before + cost;
      const std::int64_t from = first <= before ? 0 : unit_at(*output.linear, std::min(first, after) - before),
                         to = last >= after ? units_of(*output.linear)
                                            : unit_at(*output.linear, std::max(last, before) - before);
      before = after;
      const bool in_order = !has_row_order(*output.linear);
      float* const y = in_order ? output.y : stored;
      const std::int64_t y_stride = in_order ? output.y_stride : output.linear->rows();
      if (!in_order) stored += n * output.linear->rows();
      if (from >= to) continue;
      if (inputs_[o] != nullptr)
        packed_run({&std::get<PackedWeights>(output.linear->weights), inputs_[o], from, to, y, y_stride});
      else
        kernels_.dense->run({&std::get<DenseWeights>(output.linear->weights), x, n, x_stride, from * kTileRows,
                             std::min(to * kTileRows, output.linear->rows()), y, y_stride});
    }
  };
  threads_.run(compute);
  scatter(outputs, n);
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
