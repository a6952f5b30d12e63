#include "pack/pack_model.h"

#include "artifact/write_artifact.h"
#include "core/parallel.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

namespace scalebits {
namespace {

constexpr float kLargestF16 = 65504.0f;

DType stored_dtype(const HostTensor& tensor) {
  if (tensor.dtype != DType::f32) return tensor.dtype;
  const std::vector<float> values = tensor.to_f32();
  const bool fits = std::all_of(values.begin(), values.end(), [](float v) { return std::abs(v) <= kLargestF16; });
  return fits ? DType::f16 : DType::bf16;
}

/// The order to store a dimension in when no table will say so: only a folded one.
const ChannelOrder* folded(const ChannelOrderPtr& order) {
  return order && order->table.empty() ? order.get() : nullptr;
}

std::string table_of(const ChannelOrderPtr& order) { return order ? order->table : std::string(); }

struct DenseOrder {
  const ChannelOrder* rows = nullptr;  // of the first of two dimensions
  const ChannelOrder* last = nullptr;
};

DenseOrder dense_order(const Partition& partition, const std::string& name) {
  for (const MatrixPartition& matrix : partition.matrices)
    if (matrix.name == name) return {folded(matrix.row_order), folded(matrix.col_order)};
  const auto found = partition.dense_orders.find(name);
  return {nullptr, found == partition.dense_orders.end() ? nullptr : found->second.get()};
}

std::uint16_t to_16_bits(float value, DType dtype) {
  return dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
}

HostTensor dense_tensor(const Checkpoint& checkpoint, const Partition& partition, const DenseDeclaration& declaration) {
  const HostTensor& source = checkpoint.tensor(declaration.name);
  const DenseOrder order = dense_order(partition, declaration.name);
  if (source.dtype == declaration.dtype && order.rows == nullptr && order.last == nullptr) return source;
  const std::int64_t cols = source.shape.back(), rows = source.elements() / cols;
  auto bits = std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(source.elements()));
  parallel_for(rows, [&](std::int64_t row) {
    std::vector<float> values(static_cast<std::size_t>(cols));
    const std::int64_t from = order.rows ? order.rows->order[static_cast<std::size_t>(row)] : row;
    source.copy_f32(from * cols, values);
    for (std::int64_t col = 0; col < cols; ++col) {
      const auto j = order.last ? order.last->order[static_cast<std::size_t>(col)] : static_cast<std::uint32_t>(col);
      (*bits)[static_cast<std::size_t>(row * cols + col)] = to_16_bits(values[j], declaration.dtype);
    }
  });
  return {declaration.dtype, source.shape, std::as_bytes(std::span(*bits)), bits};
}

/// Index of each quantised matrix by name.
std::map<std::string, std::size_t> quantised(const RoundedMatrices& matrices) {
  std::map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < matrices.size(); ++i)
    if (matrices[i]) index[matrices[i]->name()] = i;
  return index;
}

}  // namespace

ArtifactDescription describe_artifact(const Checkpoint& checkpoint, const Partition& partition,
                                      const RoundedMatrices& matrices, const Json& recipe) {
  ArtifactDescription description;
  description.spec = checkpoint.spec;
  description.recipe = recipe;
  description.chat_template = checkpoint.chat_template;
  description.source_hash = checkpoint.hash;
  description.program = "scalebits 0.1.0";
  if (checkpoint.tokenizer) description.tokenizer_bytes = checkpoint.tokenizer->serialize().size();
  const auto index = quantised(matrices);
  std::set<std::string> tables;
  const auto declare_table = [&](const ChannelOrderPtr& order) {
    if (!order || order->table.empty() || !tables.insert(order->table).second) return;
    description.tables.push_back({order->table, static_cast<std::int64_t>(order->order.size())});
  };
  for (const TensorShape& tensor : required_tensors(checkpoint.spec)) {
    const auto found = index.find(tensor.name);
    if (found == index.end()) {
      description.dense.push_back({tensor.name, stored_dtype(checkpoint.tensor(tensor.name)), tensor.shape});
      continue;
    }
    const MatrixPartition& matrix = partition.matrices[found->second];
    const MatrixFormat& format = matrices[found->second]->format();
    description.matrices.push_back({tensor.name, format,
                                    std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count())),
                                    table_of(matrix.row_order), table_of(matrix.col_order)});
    declare_table(matrix.row_order);
    declare_table(matrix.col_order);
  }
  return description;
}

void set_widths(ArtifactDescription& description, const RoundedMatrices& matrices, const BitPlan& plan) {
  const auto index = quantised(matrices);
  for (MatrixDeclaration& matrix : description.matrices) matrix.widths = plan.widths[index.at(matrix.name)];
}

void write_packed_model(const std::filesystem::path& path, const ArtifactDescription& description,
                        const Checkpoint& checkpoint, const Partition& partition, const RoundedMatrices& matrices,
                        const MatrixPacker& pack_matrix) {
  const auto index = quantised(matrices);
  ArtifactPayload payload;
  payload.matrix = [&](const MatrixDeclaration& declaration, std::span<std::byte> blob) {
    pack_matrix(index.at(declaration.name), blob);
  };
  payload.table = [&](const TableDeclaration& declaration) {
    for (const MatrixPartition& matrix : partition.matrices)
      for (const ChannelOrderPtr& order : {matrix.row_order, matrix.col_order})
        if (order && order->table == declaration.name) return order->order;
    throw InternalError(fmt::format("no order for table '{}'", declaration.name));
  };
  payload.dense = [&](const DenseDeclaration& declaration) { return dense_tensor(checkpoint, partition, declaration); };
  if (checkpoint.tokenizer) payload.tokenizer = checkpoint.tokenizer->serialize();
  write_artifact(path, description, payload);
}

}  // namespace scalebits
