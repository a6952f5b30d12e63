#include "pipeline/search_state.h"

#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"

#include <cstring>
#include <map>

namespace scalebits {
namespace {

constexpr const char* kMetadataKey = "scalebits_search";
constexpr int kVersion = 1;
constexpr const char* kPhases[] = {"order", "descend", "swap", "done"};

/// Collects tensors for the writer; the bytes live here until written.
class Tensors {
 public:
  template <typename T>
  void add(const std::string& name, const char* dtype, const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    writer.add(name, dtype, {static_cast<std::int64_t>(values.size())}, bytes.size());
    owned_.emplace_back(bytes.begin(), bytes.end());
  }
  void write(const std::filesystem::path& path) const {
    writer.write_sealed(path, std::vector<std::span<const std::byte>>(owned_.begin(), owned_.end()));
  }
  SafetensorsWriter writer;

 private:
  std::vector<std::vector<std::byte>> owned_;
};

template <typename T>
std::vector<T> read_values(const SafetensorsFile& file, const std::string& name, const char* dtype) {
  const SafetensorsEntry& entry = file.entry(name);
  if (entry.dtype != dtype)
    fail_input("{}: tensor {}: wanted {}, found {}", file.path().string(), name, dtype, entry.dtype);
  std::vector<T> values(entry.bytes.size() / sizeof(T));
  std::memcpy(values.data(), entry.bytes.data(), values.size() * sizeof(T));
  return values;
}

std::vector<std::uint8_t> joined(const BitPlan& plan) {
  std::vector<std::uint8_t> all;
  for (const auto& widths : plan.widths) all.insert(all.end(), widths.begin(), widths.end());
  return all;
}

BitPlan split(const std::vector<std::uint8_t>& all, const std::vector<std::size_t>& blocks, const std::string& where) {
  BitPlan plan;
  std::size_t at = 0;
  for (const std::size_t count : blocks) {
    if (count > all.size() - at) fail_input("{}: a plan has too few blocks", where);
    plan.widths.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(at),
                             all.begin() + static_cast<std::ptrdiff_t>(at + count));
    at += count;
  }
  if (at != all.size()) fail_input("{}: a plan has too many blocks", where);
  return plan;
}

std::vector<float> joined(const SensitivityTable& table) {
  std::vector<float> all;
  for (const auto& matrix : table.scores)
    for (const WidthScores& block : matrix) all.insert(all.end(), block.begin(), block.end());
  return all;
}

/// Empty when there are no scores yet.
SensitivityTable split_scores(const std::vector<float>& all, const std::vector<std::size_t>& blocks,
                              const std::string& where) {
  SensitivityTable table;
  std::size_t at = 0;
  for (const std::size_t count : blocks) {
    if (all.empty()) break;
    if (9 * count > all.size() - at) fail_input("{}: a table of scores has too few blocks", where);
    std::vector<WidthScores> matrix(count);
    if (count > 0) std::memcpy(matrix.data(), all.data() + at, 9 * count * sizeof(float));
    at += 9 * count;
    table.scores.push_back(std::move(matrix));
  }
  return table;
}

/// Orders are shared between matrices; each is stored once and named by its number.
class OrderNumbers {
 public:
  Json number(const ChannelOrderPtr& order) {
    if (!order) return nullptr;
    const auto [found, added] = numbers_.try_emplace(order.get(), orders.size());
    if (added) orders.push_back(order);
    return found->second;
  }
  std::vector<ChannelOrderPtr> orders;

 private:
  std::map<const ChannelOrder*, std::size_t> numbers_;
};

Json to_json(const SearchStep& step) {
  return {step.phase, step.code_bits, step.loss, step.seconds, step.lowered, step.raised, step.accepted};
}

SearchStep step_from_json(const Json& json) {
  return {json.at(0).get<std::string>(),
          json.at(1).get<double>(),
          json.at(2).is_null() ? 0.0 : json.at(2).get<double>(),
          json.at(3).get<double>(),
          json.at(4).get<std::int64_t>(),
          json.at(5).get<std::int64_t>(),
          json.at(6).get<bool>()};
}

void require_same_part(const Json& found, const Json& wanted, const std::string& what, const std::string& where) {
  if (found != wanted)
    fail_input("{}: this search was made with another {}; delete it or give the same one (found {}, wanted {})", where,
               what, found.dump().substr(0, 600), wanted.dump().substr(0, 600));
}

}  // namespace

void save_search_state(const std::filesystem::path& path, const SearchState& state, const Provenance& provenance) {
  Tensors tensors;
  Json json = {{"version", kVersion},
               {"checkpoint", provenance.checkpoint_hash},
               {"calibration", provenance.calibration_hash},
               {"recipe", provenance.recipe},
               {"phase", kPhases[static_cast<std::size_t>(state.phase)]},
               {"next_window", state.next_window},
               {"gradient_windows", state.gradient_windows},
               {"best_validation_loss", state.best_validation_loss},
               {"swap_fraction", state.swap_fraction},
               {"swap_step", state.swap_step},
               {"scored", state.scored},
               {"reordering", name_of(state.partition.reordering)}};
  OrderNumbers numbers;
  Json matrices = Json::array(), dense = Json::object(), log = Json::array(), frontier = Json::array();
  for (const MatrixPartition& matrix : state.partition.matrices)
    matrices.push_back(
        {matrix.name, matrix.rows, matrix.cols, numbers.number(matrix.row_order), numbers.number(matrix.col_order)});
  for (const auto& [name, order] : state.partition.dense_orders) dense[name] = numbers.number(order);
  Json tables = Json::array();
  for (std::size_t i = 0; i < numbers.orders.size(); ++i) {
    tables.push_back(numbers.orders[i]->table);
    tensors.add(fmt::format("order.{}", i), "U32", numbers.orders[i]->order);
  }
  Json blocks = Json::array();
  for (const auto& widths : state.plan.widths) blocks.push_back(widths.size());
  tensors.add("plan", "U8", joined(state.plan));
  if (!state.held.widths.empty()) tensors.add("held", "U8", joined(state.held));
  tensors.add("scores", "F32", joined(state.scores));
  for (std::size_t i = 0; i < state.importance.size(); ++i)
    tensors.add(fmt::format("importance.{}", i), "F32", state.importance[i]);
  for (std::size_t i = 0; i < state.frontier.size(); ++i) {
    const FrontierPoint& point = state.frontier[i];
    frontier.push_back({point.stored_bytes, point.code_bits, point.loss});
    tensors.add(fmt::format("frontier.{}", i), "U8", joined(point.plan));
    tensors.add(fmt::format("frontier_scores.{}", i), "F32", joined(point.scores));
  }
  for (const SearchStep& step : state.log) log.push_back(to_json(step));
  json["matrices"] = std::move(matrices);
  json["dense_orders"] = std::move(dense);
  json["tables"] = std::move(tables);
  json["blocks"] = std::move(blocks);
  json["frontier"] = std::move(frontier);
  json["log"] = std::move(log);
  json["importances"] = state.importance.size();
  tensors.writer.set_metadata(kMetadataKey, json.dump());
  tensors.write(path);
}

void require_same(const Provenance& found, const Provenance& wanted, const std::filesystem::path& path) {
  require_same_part(found.checkpoint_hash, wanted.checkpoint_hash, "checkpoint", path.string());
  require_same_part(found.calibration_hash, wanted.calibration_hash, "calibration set", path.string());
  for (const auto& [option, value] : wanted.recipe.items())
    if (const Json was = found.recipe.value(option, Json()); was != value)
      fail(ErrorKind::usage, "{}: this search was made with '{}' {}, and {} is wanted; delete it or ask for the same",
           path.string(), option, was.dump().substr(0, 200), value.dump().substr(0, 200));
  require_same_part(found.recipe, wanted.recipe, "recipe", path.string());
}

SavedSearch load_search_state(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open_sealed(path);
  const std::string where = path.string();
  const auto metadata = file.metadata().find(kMetadataKey);
  if (metadata == file.metadata().end()) fail_input("{}: not the state of a search", where);
  const Json json = parse_json(metadata->second, where);
  if (json_value<int>(json, "version", where) != kVersion) fail_input("{}: unknown version of the search state", where);
  const Provenance provenance{json_value<std::string>(json, "checkpoint", where),
                              json_value<std::string>(json, "calibration", where),
                              json_value<Json>(json, "recipe", where)};
  SearchState state;
  try {
    const auto phase = json.at("phase").get<std::string>();
    for (std::size_t i = 0; i < std::size(kPhases); ++i)
      if (phase == kPhases[i]) state.phase = static_cast<SearchState::Phase>(i);
    state.next_window = json.at("next_window").get<std::int64_t>();
    state.gradient_windows = json.at("gradient_windows").get<std::int64_t>();
    state.best_validation_loss = json.at("best_validation_loss").get<double>();
    state.swap_fraction = json.at("swap_fraction").get<double>();
    state.swap_step = json.at("swap_step").get<int>();
    state.scored = json.at("scored").get<bool>();
    state.partition.reordering = reordering_from_name(json.at("reordering").get<std::string>());
    std::vector<ChannelOrderPtr> orders;
    for (std::size_t i = 0; i < json.at("tables").size(); ++i)
      orders.push_back(std::make_shared<ChannelOrder>(
          ChannelOrder{read_values<std::uint32_t>(file, fmt::format("order.{}", i), "U32"),
                       json.at("tables").at(i).get<std::string>()}));
    const auto order = [&](const Json& number) {
      return number.is_null() ? nullptr : orders.at(number.get<std::size_t>());
    };
    for (const Json& matrix : json.at("matrices"))
      state.partition.matrices.push_back({matrix.at(0).get<std::string>(), matrix.at(1).get<std::int64_t>(),
                                          matrix.at(2).get<std::int64_t>(), order(matrix.at(3)), order(matrix.at(4))});
    for (const auto& [name, number] : json.at("dense_orders").items())
      state.partition.dense_orders[name] = order(number);
    const auto blocks = json.at("blocks").get<std::vector<std::size_t>>();
    state.plan = split(read_values<std::uint8_t>(file, "plan", "U8"), blocks, where);
    if (file.find("held") != nullptr) state.held = split(read_values<std::uint8_t>(file, "held", "U8"), blocks, where);
    state.scores = split_scores(read_values<float>(file, "scores", "F32"), blocks, where);
    for (std::size_t i = 0; i < json.at("importances").get<std::size_t>(); ++i)
      state.importance.push_back(read_values<float>(file, fmt::format("importance.{}", i), "F32"));
    for (std::size_t i = 0; i < json.at("frontier").size(); ++i) {
      const Json& point = json.at("frontier").at(i);
      state.frontier.push_back(
          {point.at(0).get<std::uint64_t>(), point.at(1).get<double>(), point.at(2).get<double>(),
           split(read_values<std::uint8_t>(file, fmt::format("frontier.{}", i), "U8"), blocks, where),
           split_scores(read_values<float>(file, fmt::format("frontier_scores.{}", i), "F32"), blocks, where)});
    }
    for (const Json& step : json.at("log")) state.log.push_back(step_from_json(step));
  } catch (const nlohmann::json::exception& error) {
    fail_input("{}: damaged search state: {}", where, error.what());
  } catch (const std::out_of_range& error) {
    fail_input("{}: damaged search state: {}", where, error.what());
  }
  return {std::move(state), provenance};
}

}  // namespace scalebits
