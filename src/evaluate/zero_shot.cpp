#include "evaluate/zero_shot.h"

#include "core/error.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace scalebits {
namespace {

using Clock = std::chrono::steady_clock;

/// Unicode characters, what Python's len counts.
double characters(std::string_view utf8) {
  return static_cast<double>(std::ranges::count_if(utf8, [](char byte) { return (byte & 0xc0) != 0x80; }));
}

std::size_t largest(const std::vector<double>& values) {
  return static_cast<std::size_t>(std::ranges::max_element(values) - values.begin());
}

QuestionResult judged(const TaskItem& item, std::vector<EncodedChoice> choices, std::vector<double> log_likelihoods) {
  std::vector<double> by_length = log_likelihoods;
  for (std::size_t i = 0; i < by_length.size(); ++i) by_length[i] /= characters(item.choices[i]);
  QuestionResult result{.line = item.line, .label = item.label};
  result.likeliest = largest(log_likelihoods);
  result.likeliest_by_length = largest(by_length);
  result.choices = std::move(choices);
  result.log_likelihoods = std::move(log_likelihoods);
  return result;
}

using Questions = std::vector<std::vector<EncodedChoice>>;

Questions encode(RuntimeModel& model, const std::vector<TaskItem>& items, bool bos) {
  const EncodeChoiceOptions options{.bos = bos, .max_positions = model.spec().max_positions};
  Questions questions(items.size());
  for (std::size_t i = 0; i < items.size(); ++i)
    for (const std::string& choice : items[i].choices)
      questions[i].push_back(
          encode_choice(model.require_tokenizer(), items[i].context, choice, options, items[i].where));
  return questions;
}

Json json_of_error(const Accuracy& accuracy) {
  return std::isnan(accuracy.standard_error) ? Json() : Json(accuracy.standard_error);
}

}  // namespace

Accuracy TaskResult::accuracy(Measure measure) const {
  const auto count = static_cast<double>(questions.size());
  const auto right = static_cast<double>(std::ranges::count_if(questions, [&](const QuestionResult& question) {
    return (measure == Measure::acc ? question.likeliest : question.likeliest_by_length) == question.label;
  }));
  const double p = right / count;
  return {p, questions.size() < 2 ? NAN : std::sqrt(p * (1 - p) / (count - 1))};
}

std::vector<TaskResult> measure_zero_shot(RuntimeModel& model, const std::vector<TaskSample>& samples,
                                          const ZeroShotOptions& options, const ProgressSink& progress) {
  std::vector<Questions> encoded;
  double total = 0, done = 0;  // tokens
  for (const TaskSample& sample : samples) {
    encoded.push_back(encode(model, sample.items, options.bos));
    total += static_cast<double>(tokens_to_read(encoded.back()));
  }
  std::vector<TaskResult> results;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const TaskSample& sample = samples[i];
    const auto own = static_cast<double>(tokens_to_read(encoded[i]));
    const auto report = [&](const ProgressReport& of_task) {
      if (progress) progress({(done + of_task.fraction * own) / total, std::string(sample.task.name), of_task.detail});
    };
    const auto start = Clock::now();
    std::vector<std::vector<double>> sums = log_likelihoods(model, encoded[i], options.kv, report);
    results.push_back({.task = sample.task, .seconds = std::chrono::duration<double>(Clock::now() - start).count()});
    for (std::size_t j = 0; j < sums.size(); ++j)
      results.back().questions.push_back(judged(sample.items[j], std::move(encoded[i][j]), std::move(sums[j])));
    done += own;
  }
  return results;
}

Accuracy mean_accuracy(std::span<const TaskResult> results) {
  Accuracy mean;
  double variance = 0;
  for (const TaskResult& result : results) {
    const Accuracy accuracy = result.accuracy(result.task.customary);
    mean.mean += accuracy.mean / static_cast<double>(results.size());
    variance += accuracy.standard_error * accuracy.standard_error;
  }
  mean.standard_error = std::sqrt(variance) / static_cast<double>(results.size());
  return mean;
}

Json to_json(const TaskResult& result) {
  Json json = {{"task", result.task.name}, {"questions", result.questions.size()}};
  for (const Measure measure : {Measure::acc, Measure::acc_norm}) {
    const Accuracy accuracy = result.accuracy(measure);
    json[std::string(name_of(measure))] = accuracy.mean;
    json[std::string(name_of(measure)) + "_standard_error"] = json_of_error(accuracy);
  }
  json["customary"] = name_of(result.task.customary);
  json["seconds"] = result.seconds;
  return json;
}

Json to_json(std::span<const TaskResult> results, std::int64_t limit) {
  const Accuracy mean = mean_accuracy(results);
  double seconds = 0;
  Json tasks = Json::array();
  for (const TaskResult& result : results) {
    seconds += result.seconds;
    tasks.push_back(to_json(result));
  }
  return {{"tasks", tasks},
          {"mean", mean.mean},
          {"mean_standard_error", json_of_error(mean)},
          {"limit", limit},
          {"seconds", seconds}};
}

std::string question_lines(const TaskResult& result) {
  std::string lines;
  for (const QuestionResult& question : result.questions) {
    Json ids = Json::array(), scored = Json::array();
    for (const EncodedChoice& choice : question.choices) {
      ids.push_back(choice.ids);
      scored.push_back(choice.scored);
    }
    const Json line = {{"task", result.task.name},
                       {"line", question.line},
                       {"label", question.label},
                       {"acc_choice", question.likeliest},
                       {"acc_norm_choice", question.likeliest_by_length},
                       {"log_likelihoods", question.log_likelihoods},
                       {"ids", ids},
                       {"scored", scored}};
    lines += line.dump() + "\n";
  }
  return lines;
}

}  // namespace scalebits
