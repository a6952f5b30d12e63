#include "evaluate/answer_comparison.h"

#include "core/error.h"

#include <cmath>

namespace scalebits {
namespace {

Json to_json(const AnswerComparison& comparison) {
  return {{"difference", comparison.difference.mean},
          {"difference_standard_error", comparison.difference.standard_error},
          {"same", comparison.same}};
}

}  // namespace

AnswerComparison compare_answers(const TaskResult& model, const TaskResult& reference) {
  SCALEBITS_ASSERT(model.task.name == reference.task.name && model.questions.size() == reference.questions.size());
  const auto count = static_cast<double>(model.questions.size());
  double sum = 0, squares = 0, same = 0;
  for (std::size_t i = 0; i < model.questions.size(); ++i) {
    const QuestionResult &own = model.questions[i], &other = reference.questions[i];
    SCALEBITS_ASSERT(own.line == other.line);
    const auto answer = [&](const QuestionResult& question) {
      return model.task.customary == Measure::acc ? question.likeliest : question.likeliest_by_length;
    };
    const double gain = static_cast<double>(answer(own) == own.label) - static_cast<double>(answer(other) == own.label);
    sum += gain, squares += gain * gain;
    same += answer(own) == answer(other) ? 1 : 0;
  }
  const double mean = sum / count, variance = count < 2 ? NAN : (squares - count * mean * mean) / (count - 1);
  return {{mean, std::sqrt(variance / count)}, same / count};
}

AnswerComparison compare_answers(std::span<const TaskResult> model, std::span<const TaskResult> reference) {
  SCALEBITS_ASSERT(model.size() == reference.size() && !model.empty());
  const auto tasks = static_cast<double>(model.size());
  AnswerComparison mean;
  double variance = 0;
  for (std::size_t i = 0; i < model.size(); ++i) {
    const AnswerComparison own = compare_answers(model[i], reference[i]);
    mean.difference.mean += own.difference.mean / tasks;
    mean.same += own.same / tasks;
    variance += own.difference.standard_error * own.difference.standard_error;
  }
  mean.difference.standard_error = std::sqrt(variance) / tasks;
  return mean;
}

Json to_json(std::span<const TaskResult> model, std::span<const TaskResult> reference) {
  Json json = to_json(compare_answers(model, reference));
  for (std::size_t i = 0; i < model.size(); ++i) {
    Json task = {{"task", model[i].task.name}};
    task.update(to_json(compare_answers(model[i], reference[i])));
    json["tasks"].push_back(std::move(task));
  }
  return json;
}

}  // namespace scalebits
