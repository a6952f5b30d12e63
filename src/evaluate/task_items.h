// The six zero-shot tasks: which file of a data folder holds each, and how a record becomes a question with choices,
// worded as EleutherAI's lm-evaluation-harness words it without examples.
#pragma once

#include "core/json.h"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

/// acc: the choice with the largest log-likelihood is the right one; acc_norm: log-likelihood by character of the
/// choice.
enum class Measure { acc, acc_norm };
std::string_view name_of(Measure measure);

/// Which of the choices continues the context?
struct TaskItem {
  std::string where;      // "FILE: line N", for messages
  std::int64_t line = 0;  // of the file, from 1
  std::string context;
  std::vector<std::string> choices;  // each follows the context after one space
  std::size_t label = 0;             // the right choice
};

struct Task {
  std::string_view name, file;  // of the data folder: JSON lines
  Measure customary;            // what papers report of this task
  TaskItem (*item)(const Json& record, const std::string& where);
};

/// In the order in which they are reported.
std::span<const Task> zero_shot_tasks();
/// Throws Error(usage) naming the tasks there are.
const Task& task_named(std::string_view name);

/// All records of the task's file. Throws Error(bad_input) naming file and line when one is not what it must be.
std::vector<TaskItem> read_task(const Task& task, const std::filesystem::path& folder);

/// `limit` items, those in the middle of as many equal stretches of the file: always the same ones, and neighbours,
/// which are often about the same thing, stay apart. 0, or more than there are: all.
std::vector<TaskItem> sample_items(std::vector<TaskItem> items, std::int64_t limit);

}  // namespace scalebits
