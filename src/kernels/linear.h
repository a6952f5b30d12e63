// Products as a model needs them: one or several matrices that read the same inputs, shared out over threads.
#pragma once

#include "core/thread_pool.h"
#include "core/work_shares.h"
#include "kernels/kernel.h"
#include "kernels/weights.h"

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace scalebits {

/// One matrix of a model, packed or dense.
struct Linear {
  std::string name;
  std::variant<PackedWeights, DenseWeights> weights;

  std::int64_t rows() const;
  std::int64_t cols() const;
  std::uint64_t bytes() const;  // read by one product
  /// Row `row`, dequantised, in the original order of columns, to `out` of cols().
  void row(std::int64_t row, std::span<float> out) const;
};

/// y [n, y_stride] = x · Wᵀ.
struct LinearOutput {
  const Linear* linear = nullptr;
  float* y = nullptr;
  std::int64_t y_stride = 0;
};

/// What a series of products needs, made once for a model: threads, chosen kernels, scratch. Not for two callers at
/// once.
class LinearRunner {
 public:
  LinearRunner(ThreadPool& threads, Isa highest, ActivationFormat format)
      : threads_(threads), shares_(threads.size()), kernels_(highest), format_(format) {}

  /// All `outputs` from the same x [n, x_stride] (f32, original order, finite). Inputs are gathered and quantised once
  /// for matrices with the same input order.
  void run(std::span<const LinearOutput> outputs, const float* x, std::int64_t n, std::int64_t x_stride);

  ThreadPool& threads() { return threads_; }
  const KernelChoice& kernels() const { return kernels_; }
  ActivationFormat format() const { return format_; }

 private:
  ThreadPool& threads_;
  WorkShares shares_;
  KernelChoice kernels_;
  ActivationFormat format_;
  struct Gather {
    std::span<const std::uint32_t> order;
    std::int64_t inputs = 0;
    Activations x;
  };
  /// Where the gathered inputs of a matrix will lie; matrices with the same order share one.
  const Activations& gather_for(const PackedWeights& weights, std::int64_t n);
  /// Part `part` of `parts` of all gathers of the present call.
  void gather(const float* x, std::int64_t x_stride, int part, int parts);

  /// Rows of all outputs, in units of unit_rows_, one output's after the other's.
  void compute(std::span<const LinearOutput> outputs, const float* x, std::int64_t n, std::int64_t x_stride,
               WorkRange units);
  /// Results of matrices with a row order, each whole one [n, rows] after the other, to their places.
  void scatter(std::span<const LinearOutput> outputs, std::int64_t n);

  std::deque<Gather> scratch_;  // the first gathers_ belong to the present call
  std::size_t gathers_ = 0;
  std::int64_t unit_rows_ = 0;
  std::vector<const Activations*> inputs_;
  AlignedBuffer<float> unordered_;
};

}  // namespace scalebits
