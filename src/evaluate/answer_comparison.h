// How two models' answers to the same questions compare. Where a task can be answered alike every time, as BoolQ, a
// model may gain or lose dozens of points by leaning the other way: the share of answers that stay as they were says
// what accuracy does not.
#pragma once

#include "evaluate/zero_shot.h"

#include <span>

namespace scalebits {

/// By each task's customary measure; over several tasks the mean, each with the same weight.
struct AnswerComparison {
  Accuracy difference;  // of accuracies, the model's minus the reference's, with its error paired by question
  double same = 0;      // share of questions that both answer alike, right or not
};

/// Both asked the same questions in the same order, as measure_zero_shot does.
AnswerComparison compare_answers(const TaskResult& model, const TaskResult& reference);
AnswerComparison compare_answers(std::span<const TaskResult> model, std::span<const TaskResult> reference);

/// {"tasks": [{"task", "difference", "difference_standard_error", "same"}], and the mean's three}
Json to_json(std::span<const TaskResult> model, std::span<const TaskResult> reference);

}  // namespace scalebits
