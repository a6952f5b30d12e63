#include "evaluate/task_items.h"

#include "core/mapped_file.h"

#include <algorithm>
#include <array>
#include <utility>

namespace scalebits {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

/// record[key], with something to read in it.
std::string text_of(const Json& record, const std::string& key, const std::string& where) {
  auto text = json_value<std::string>(record, key, where);
  if (text.find_first_not_of(kSpace) == std::string::npos) fail_input("{}: key '{}' holds no text", where, key);
  return text;
}

std::vector<std::string> choices_of(const Json& record, const std::string& key, const std::string& where) {
  auto choices = json_value<std::vector<std::string>>(record, key, where);
  if (choices.size() < 2) fail_input("{}: key '{}' must hold at least 2 choices, found {}", where, key, choices.size());
  for (const std::string& choice : choices)
    if (choice.find_first_not_of(kSpace) == std::string::npos)
      fail_input("{}: key '{}' has a choice without text", where, key);
  return choices;
}

/// The number of the right choice.
std::size_t label_of(const Json& record, std::size_t choices, const std::string& where) {
  const auto label = json_value<Json>(record, "label", where);
  if (!label.is_number_integer() || label < 0 || label >= choices)
    fail_input("{}: key 'label' must be a whole number from 0 to {}, found {}", where, choices - 1, label.dump());
  return label.get<std::size_t>();
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

/// HellaSwag's texts from WikiHow carry marks in brackets.
std::string without_marks(std::string text) {
  text.erase(0, std::min(text.size(), text.find_first_not_of(kSpace)));
  text.erase(text.find_last_not_of(kSpace) + 1);
  replace_all(text, " [title]", ". ");
  for (std::size_t open = text.find('['); open != std::string::npos; open = text.find('[', open)) {
    const std::size_t close = text.find(']', open);
    if (close == std::string::npos) break;
    text.erase(open, close + 1 - open);
  }
  replace_all(text, "  ", " ");
  return text;
}

/// The harness writes a capital where HellaSwag's records begin the sentence to be continued (ctx_b); ours have that
/// beginning at the end of `ctx`, behind the last full stop.
std::string with_capital(std::string text) {
  const std::size_t stop = text.rfind(". ");
  if (stop == std::string::npos || stop + 2 == text.size()) return text;
  char& first = text[stop + 2];
  if (first >= 'a' && first <= 'z') first = static_cast<char>(first - 'a' + 'A');
  return text;
}

std::string question(const std::string& text) { return "Question: " + text + "\nAnswer:"; }

TaskItem with_choices(std::string context, const Json& record, const std::string& key, const std::string& where) {
  TaskItem item{.context = std::move(context), .choices = choices_of(record, key, where)};
  item.label = label_of(record, item.choices.size(), where);
  return item;
}

TaskItem arc_item(const Json& record, const std::string& where) {
  return with_choices(question(text_of(record, "question", where)), record, "choices", where);
}

TaskItem openbookqa_item(const Json& record, const std::string& where) {
  return with_choices(text_of(record, "question", where), record, "choices", where);
}

TaskItem hellaswag_item(const Json& record, const std::string& where) {
  TaskItem item = with_choices(with_capital(without_marks(text_of(record, "ctx", where))), record, "endings", where);
  for (std::string& choice : item.choices) {
    choice = without_marks(choice);
    if (choice.empty()) fail_input("{}: key 'endings' has a choice without text", where);
  }
  return item;
}

TaskItem piqa_item(const Json& record, const std::string& where) {
  return {.context = question(text_of(record, "goal", where)),
          .choices = {text_of(record, "sol1", where), text_of(record, "sol2", where)},
          .label = label_of(record, 2, where)};
}

/// Its questions have no mark, its label is a word.
TaskItem boolq_item(const Json& record, const std::string& where) {
  const auto label = json_value<std::string>(record, "label", where);
  if (label != "true" && label != "false")
    fail_input("{}: key 'label' must be \"true\" or \"false\", found \"{}\"", where, label);
  return {.context = text_of(record, "passage", where) + "\n" + question(text_of(record, "question", where) + "?"),
          .choices = {"no", "yes"},
          .label = label == "true" ? 1u : 0u};
}

constexpr std::array<Task, 6> kTasks = {{
    {"arc_easy", "arc_easy_test.jsonl", Measure::acc, arc_item},
    {"arc_challenge", "arc_challenge_test.jsonl", Measure::acc_norm, arc_item},
    {"hellaswag", "hellaswag_val_first2500.jsonl", Measure::acc_norm, hellaswag_item},
    {"piqa", "piqa_valid.jsonl", Measure::acc, piqa_item},
    {"openbookqa", "openbookqa_test.jsonl", Measure::acc_norm, openbookqa_item},
    {"boolq", "boolq_val.jsonl", Measure::acc, boolq_item},
}};

}  // namespace

std::string_view name_of(Measure measure) { return measure == Measure::acc ? "acc" : "acc_norm"; }

std::span<const Task> zero_shot_tasks() { return kTasks; }

const Task& task_named(std::string_view name) {
  std::string names;
  for (const Task& task : kTasks) {
    if (task.name == name) return task;
    names += (names.empty() ? "" : ", ") + std::string(task.name);
  }
  fail(ErrorKind::usage, "there is no task '{}'; there are {}", name, names);
}

std::vector<TaskItem> read_task(const Task& task, const std::filesystem::path& folder) {
  const auto file = MappedFile::open(folder / task.file);
  std::string_view rest(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  std::vector<TaskItem> items;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const auto number = static_cast<std::int64_t>(items.size()) + 1;
    std::string where = fmt::format("{}: line {}", file->path().string(), number);
    items.push_back(task.item(parse_json(line, where), where));
    items.back().where = std::move(where);
    items.back().line = number;
  }
  return items;
}

std::vector<TaskItem> sample_items(std::vector<TaskItem> items, std::int64_t limit) {
  const auto count = static_cast<std::int64_t>(items.size());
  if (limit == 0 || limit >= count) return items;
  std::vector<TaskItem> sample;
  for (std::int64_t i = 0; i < limit; ++i)
    sample.push_back(std::move(items[static_cast<std::size_t>((2 * i + 1) * count / (2 * limit))]));
  return sample;
}

}  // namespace scalebits
