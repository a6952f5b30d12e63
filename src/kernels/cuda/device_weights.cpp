#include "kernels/cuda/device_weights.h"

#include <algorithm>
#include <utility>

namespace scalebits::cuda {
namespace {

DeviceMemory floats_on(Device& device, std::span<const float> values) {
  if (values.empty()) return {};
  DeviceMemory memory = device.allocate(values.size_bytes());
  device.upload(memory.as<void>(), values.data(), values.size_bytes());
  return memory;
}

/// Of a layer's biases and norms.
Need vectors(const LayerWeights& from) {
  Need need;
  for (const auto& bias : from.biases) need.add(bias.size_bytes());
  need.add(bytes_of(from.attention_norm) + bytes_of(from.mlp_norm));
  need.add(from.q_norm.size_bytes() + from.k_norm.size_bytes());
  return need;
}

}  // namespace

void Need::add(const Need& other) {
  bytes += other.bytes;
  read += other.read;
  staging = std::max(staging, other.staging);
}

Site::Site(const Device& device, std::vector<const HostMatrix*> matrices) : matrices_(std::move(matrices)) {
  for (std::size_t i = 0; i < matrices_.size(); ++i) {
    const auto* stored = std::get_if<StoredMatrix>(matrices_[i]);
    const auto same = [&](const Group& group) {
      return stored != nullptr && !group.parts.empty() && group.parts[0].shape.cols == stored->shape.cols &&
             tile_groups(group.parts[0].shape) == tile_groups(stored->shape) &&
             std::ranges::equal(group.parts[0].input_order, stored->input_order);
    };
    auto group = std::ranges::find_if(groups_, same);
    if (group == groups_.end()) group = groups_.emplace(groups_.end());
    group->outputs.push_back(i);
    if (stored != nullptr) group->parts.push_back(*stored);
  }
  for (Group& group : groups_) {
    if (group.parts.empty()) {
      group.need.add(std::get<DenseMatrix>(*matrices_[group.outputs[0]]).bytes.size());
      continue;
    }
    group.plan = device.plan(group.parts);
    group.need = {group.plan.bytes, group.plan.staging_bytes, group.plan.read_bytes()};
  }
}

Need Site::need() const {
  Need sum;
  for (const Group& group : groups_) sum.add(group.need);
  return sum;
}
void Site::load(Device& device) {
  for (Group& group : groups_) {
    if (group.parts.empty()) {
      group.dense = std::get<DenseMatrix>(*matrices_[group.outputs[0]]);
      group.memory = device.allocate(group.dense.bytes.size());
      device.upload(group.memory.as<void>(), group.dense.bytes.data(), group.dense.bytes.size());
      group.dense.bytes = {};
    } else {
      group.packed = device.load(group.parts, std::move(group.plan));
      group.parts.clear();
    }
  }
  matrices_.clear();
}
TableView Site::table() const {
  const Group& only = groups_.front();
  if (only.packed) return {.packed = only.packed->view()};
  TableView view;
  view.dense = only.memory.as<void>(), view.type = only.dense.type;
  return view;
}
bool Site::makes_inputs(const Device& device) const {
  return groups_.size() == 1 && groups_.front().packed && device.makes_inputs(*groups_.front().packed);
}
void Site::multiply(Device& device, const CardInput& input, std::span<const Output> outputs) const {
  for (const Group& group : groups_) {
    if (!group.packed) {
      device.run(DenseProduct{.weights = group.memory.as<void>(),
                              .type = group.dense.type,
                              .rows = static_cast<int>(group.dense.rows),
                              .cols = static_cast<int>(group.dense.cols),
                              .x = input.x,
                              .x_type = input.type,
                              .tokens = input.tokens,
                              .y = outputs[group.outputs[0]].y});
      continue;
    }
    std::vector<CardOutput> of_group;
    for (const std::size_t i : group.outputs) of_group.push_back({outputs[i].y, outputs[i].rows});
    device.product(input, *group.packed, of_group);
  }
}

std::uint64_t bytes_of(const NormWeights& norm) { return norm.weight.size_bytes() + norm.bias.size_bytes(); }

DeviceNorm::DeviceNorm(Device& device, const NormWeights& from)
    : weight(floats_on(device, from.weight)), bias(floats_on(device, from.bias)) {}

DeviceLayer::DeviceLayer(const Device& device, const LayerWeights& from, bool gated) {
  const auto at = [&](Role role) { return &from.matrices[role]; };
  qkv = Site(device, {at(kQ), at(kK), at(kV)});
  o = Site(device, {at(kO)});
  gate_up = gated ? Site(device, {at(kGate), at(kUp)}) : Site(device, {at(kUp)});
  down = Site(device, {at(kDown)});
}
Need DeviceLayer::need(const LayerWeights& from) const {
  Need sum = vectors(from);
  for (const Site* site : {&qkv, &o, &gate_up, &down}) sum.add(site->need());
  return sum;
}
void DeviceLayer::load(Device& device, const LayerWeights& from) {
  for (Site* site : {&qkv, &o, &gate_up, &down}) site->load(device);
  for (int role = 0; role < kRoles; ++role)
    biases[role] = floats_on(device, from.biases[static_cast<std::size_t>(role)]);
  attention_norm = DeviceNorm(device, from.attention_norm);
  mlp_norm = DeviceNorm(device, from.mlp_norm);
  q_norm = floats_on(device, from.q_norm);
  k_norm = floats_on(device, from.k_norm);
}

Need DeviceTable::orders(const HostMatrix& matrix) {
  const auto* stored = std::get_if<StoredMatrix>(&matrix);
  return {.bytes = stored == nullptr ? 0 : stored->row_order.size_bytes() + stored->input_order.size_bytes()};
}
void DeviceTable::load(Device& device, const HostMatrix& matrix, const TableView& from) {
  view = from;
  const auto* stored = std::get_if<StoredMatrix>(&matrix);
  if (stored == nullptr) return;
  std::vector<std::uint32_t> places(stored->row_order.size());
  for (std::size_t i = 0; i < places.size(); ++i) places[stored->row_order[i]] = static_cast<std::uint32_t>(i);
  const auto put = [&](std::span<const std::uint32_t> values, DeviceMemory& memory) -> const std::uint32_t* {
    if (values.empty()) return nullptr;
    memory = device.allocate(values.size_bytes());
    device.upload(memory.as<void>(), values.data(), values.size_bytes());
    return memory.as<std::uint32_t>();
  };
  view.stored_row = put(places, stored_row);
  view.input_order = put(stored->input_order, input_order);
}

}  // namespace scalebits::cuda
