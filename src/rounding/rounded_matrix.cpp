#include "rounding/rounded_matrix.h"

#include "core/parallel.h"
#include "rounding/group_codes.h"
#include "core/lanes.h"

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

constexpr std::int64_t kRowsPerTask = 16;

/// value = scale · (round(clamp(w / scale + zero)) − zero) over one group; codes alone when `out_codes` is set.
SCALEBITS_CLONES
void round_group(const float* weights, std::size_t count, float scale, float zero, float top_code, float* out) {
  const float inverse = 1.0f / scale;
  for (std::size_t i = 0; i < count; i += kLanes) {
    Lanes code;
    load_lanes(code, weights + i);
    code = code * inverse + zero;
    clamp_lanes(code, 0.0f, top_code);
    round_lanes(code);
    store_lanes(out + i, (code - zero) * scale);
  }
}

std::int64_t original_index(const ChannelOrderPtr& order, std::int64_t stored) {
  return order ? static_cast<std::int64_t>(order->order[static_cast<std::size_t>(stored)]) : stored;
}

}  // namespace

MatrixFormat stored_format(std::int64_t rows, std::int64_t cols, const BlockShape& blocks, const GroupOptions& groups) {
  MatrixFormat format{.rows = rows,
                      .cols = cols,
                      .block_rows = blocks.rows,
                      .block_cols = blocks.cols,
                      .group_cols = groups.group_cols};
  format.side.scale_bits = groups.scale_bits;
  format.side.zero_bits = groups.zero_bits;
  format.side.zero_range = groups.zero_range;
  return format;
}

RoundedMatrix::RoundedMatrix(HostTensor weight, const MatrixPartition& partition, const BlockShape& blocks,
                             const GroupOptions& groups, std::span<const float> importance)
    : weight_(std::move(weight)), partition_(partition) {
  format_ = stored_format(partition.rows, partition.cols, blocks, groups);
  groups_per_row_ = (format_.cols + format_.group_cols - 1) / format_.group_cols;
  const std::int64_t tasks = (format_.rows + kRowsPerTask - 1) / kRowsPerTask;
  const auto each_row = [&](auto&& body) {
    parallel_for(tasks, [&](std::int64_t task) {
      std::vector<float> row(static_cast<std::size_t>(padded_cols()));
      const std::int64_t end = std::min(format_.rows, (task + 1) * kRowsPerTask);
      for (std::int64_t r = task * kRowsPerTask; r < end; ++r) {
        stored_row(r, row);
        body(task, r, row);
      }
    });
  };
  const auto valid_cols = [&](std::int64_t group) {
    return std::min<std::int64_t>(format_.group_cols, format_.cols - group * format_.group_cols);
  };

  std::vector<float> widest(static_cast<std::size_t>(tasks), 0.0f);
  each_row([&](std::int64_t task, std::int64_t, std::span<const float> row) {
    for (std::int64_t group = 0; group < groups_per_row_; ++group) {
      const auto values = row.subspan(static_cast<std::size_t>(group * format_.group_cols),
                                      static_cast<std::size_t>(valid_cols(group)));
      const auto [low, high] = std::minmax_element(values.begin(), values.end());
      auto& range = widest[static_cast<std::size_t>(task)];
      range = std::max(range, covering_range(*low, *high, groups.zero_bits, groups.zero_range));
    }
  });
  const float range = *std::max_element(widest.begin(), widest.end());
  const float top_scale_code = static_cast<float>((1 << groups.scale_bits) - 1);
  format_.side.scale_step_log2 = groups.octaves / top_scale_code;
  format_.side.scale_base = std::max(range, 1e-20f) * std::exp2(-groups.octaves);
  validate(format_, partition.name);
  side_ = SideTable(format_.side);
  if (groups.code_widths == 0) return;

  std::vector<float> stored_importance(static_cast<std::size_t>(padded_cols()), 1.0f);
  if (!importance.empty())
    for (std::int64_t col = 0; col < format_.cols; ++col)
      stored_importance[static_cast<std::size_t>(col)] =
          importance[static_cast<std::size_t>(original_index(partition_.col_order, col))];
  std::vector<int> widths;
  for (int bits = 1; bits <= kMaxWidth; ++bits)
    if ((groups.code_widths >> bits & 1) != 0) {
      widths.push_back(bits);
      codes_[static_cast<std::size_t>(bits - 1)].resize(static_cast<std::size_t>(format_.rows * groups_per_row_));
    }
  each_row([&](std::int64_t, std::int64_t r, std::span<float> row) {
    std::vector<float> group_importance(static_cast<std::size_t>(format_.group_cols));
    for (std::int64_t group = 0; group < groups_per_row_; ++group) {
      const auto first = static_cast<std::size_t>(group * format_.group_cols);
      const auto weights = row.subspan(first, group_importance.size());
      std::copy_n(stored_importance.begin() + static_cast<std::ptrdiff_t>(first), group_importance.size(),
                  group_importance.begin());
      if (valid_cols(group) < format_.group_cols) pad_group(weights, group_importance, valid_cols(group));
      for (const int bits : widths)
        codes_[static_cast<std::size_t>(bits - 1)][static_cast<std::size_t>(r * groups_per_row_ + group)] =
            choose_group_code(side_, bits, weights, group_importance, groups.clip_search).code;
    }
  });
}

std::array<std::span<GroupCode>, 8> RoundedMatrix::codes() {
  std::array<std::span<GroupCode>, 8> spans;
  std::copy(codes_.begin(), codes_.end(), spans.begin());
  return spans;
}

void RoundedMatrix::stored_row(std::int64_t row, std::span<float> out) const {
  const std::int64_t original_row = original_index(partition_.row_order, row);
  if (!partition_.col_order) {
    weight_.copy_f32(original_row * format_.cols, out.first(static_cast<std::size_t>(format_.cols)));
  } else {
    thread_local std::vector<float> original;
    original.resize(static_cast<std::size_t>(format_.cols));
    weight_.copy_f32(original_row * format_.cols, original);
    for (std::size_t j = 0; j < original.size(); ++j) out[j] = original[partition_.col_order->order[j]];
  }
  std::fill(out.begin() + format_.cols, out.end(), 0.0f);
}

void RoundedMatrix::stored_row_of(const float* original, std::int64_t row, std::span<float> out) const {
  const float* source = original + original_index(partition_.row_order, row) * format_.cols;
  const auto cols = static_cast<std::size_t>(format_.cols);
  if (partition_.col_order) {
    for (std::size_t j = 0; j < cols; ++j) out[j] = source[partition_.col_order->order[j]];
  } else {
    std::copy_n(source, cols, out.begin());
  }
  std::fill(out.begin() + format_.cols, out.end(), 0.0f);
}

void RoundedMatrix::to_original_row(std::int64_t row, std::span<const float> values, float* original) const {
  float* target = original + original_index(partition_.row_order, row) * format_.cols;
  const auto cols = static_cast<std::size_t>(format_.cols);
  if (partition_.col_order) {
    for (std::size_t j = 0; j < cols; ++j) target[partition_.col_order->order[j]] = values[j];
  } else {
    std::copy_n(values.begin(), cols, target);
  }
}

void RoundedMatrix::dequantize(std::span<const std::uint8_t> widths, float* out) const {
  SCALEBITS_ASSERT(has_codes());
  SCALEBITS_ASSERT(static_cast<std::int64_t>(widths.size()) == format_.block_count());
  const auto group_cols = static_cast<std::size_t>(format_.group_cols);
  parallel_for((format_.rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
    std::vector<float> row(static_cast<std::size_t>(padded_cols()));
    const std::int64_t end = std::min(format_.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < end; ++r) {
      stored_row(r, row);
      for (std::int64_t group = 0; group < groups_per_row_; ++group) {
        float* values = row.data() + static_cast<std::size_t>(group) * group_cols;
        const int bits = width_of(widths, r, group);
        if (bits == 0) {
          std::fill_n(values, group_cols, 0.0f);
          continue;
        }
        const GroupCode chosen = code(bits, r, group);
        round_group(values, group_cols, side_.scale(chosen.scale, bits), side_.zero(chosen.zero, bits),
                    static_cast<float>((1 << bits) - 1), values);
      }
      to_original_row(r, row, out);
    }
  });
}

CodedMatrix RoundedMatrix::nearest(std::span<const std::uint8_t> widths) const {
  SCALEBITS_ASSERT(has_codes());
  SCALEBITS_ASSERT(static_cast<std::int64_t>(widths.size()) == format_.block_count());
  CodedMatrix coded(format_);
  parallel_for(divide_up(format_.rows, kRowsPerTask), [&](std::int64_t task) {
    std::vector<float> weights(static_cast<std::size_t>(padded_cols()));
    const std::int64_t end = std::min(format_.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      stored_row(row, weights);
      for (std::int64_t group = 0; group < groups_per_row_; ++group) {
        const int bits = width_of(widths, row, group);
        if (bits == 0) continue;
        const GroupCode chosen = coded.group(row, group) = code(bits, row, group);
        const float inverse = 1.0f / side_.scale(chosen.scale, bits), zero = side_.zero(chosen.zero, bits);
        const float top_code = static_cast<float>((1 << bits) - 1);
        const std::int64_t first = group * format_.group_cols,
                           last = std::min<std::int64_t>(first + format_.group_cols, format_.cols);
        for (std::int64_t col = first; col < last; ++col)
          coded.row_codes(row)[col] = static_cast<std::uint8_t>(
              std::nearbyintf(std::clamp(weights[static_cast<std::size_t>(col)] * inverse + zero, 0.0f, top_code)));
      }
    }
  });
  return coded;
}

}  // namespace scalebits
