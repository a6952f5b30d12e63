// Zero-shot accuracy: how often a model holds the right choice the likeliest, by the rules of EleutherAI's
// lm-evaluation-harness (task_items.h for the wording, choice_likelihood.h for what is scored).
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "evaluate/choice_likelihood.h"
#include "evaluate/task_items.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

/// A share in [0, 1] and its standard error.
struct Accuracy {
  double mean = 0;
  double standard_error = 0;  // NaN (in JSON null) of a single question, which tells nothing of it
};

struct QuestionResult {
  std::int64_t line = 0;                // of the task's file
  std::vector<EncodedChoice> choices;   // what was read
  std::vector<double> log_likelihoods;  // nats
  std::size_t label = 0;
  std::size_t likeliest = 0, likeliest_by_length = 0;  // what acc and acc_norm choose; the first of equals
};

struct TaskResult {
  Task task;
  std::vector<QuestionResult> questions;
  double seconds = 0;
  /// Standard error sqrt(p (1 - p) / (n - 1)).
  Accuracy accuracy(Measure measure) const;
};

struct ZeroShotOptions {
  bool bos = false;
  KvType kv = KvType::f16;
};

/// A task and the questions to ask of it.
struct TaskSample {
  Task task;
  std::vector<TaskItem> items;
};

/// All texts are encoded before the first is read. Throws Error as encode_choice and log_likelihoods do.
std::vector<TaskResult> measure_zero_shot(RuntimeModel& model, const std::vector<TaskSample>& samples,
                                          const ZeroShotOptions& options = {}, const ProgressSink& progress = {});

/// The mean over tasks, each with the same weight and by its customary measure; the tasks' errors are independent.
Accuracy mean_accuracy(std::span<const TaskResult> results);

Json to_json(const TaskResult& result);
/// {"tasks", "mean", "mean_standard_error", "limit": as sample_items takes it, "seconds"}
Json to_json(std::span<const TaskResult> results, std::int64_t limit);
/// One line of JSON for each question, with the tokens read.
std::string question_lines(const TaskResult& result);

}  // namespace scalebits
