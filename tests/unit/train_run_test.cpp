// train: a run learns, is the same bit for bit after an interruption, refuses another configuration in its folder, and
// stops with a word when the loss is lost; its data, schedule, log and plot are what they say.
#include "train/opened_run.h"
#include "train/train_data.h"
#include "train/train_state.h"
#include "train/trainer.h"

#include "core/error.h"
#include "core/parallel.h"
#include "tiny_models.h"
#include "tokenizer/tokenizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <set>

namespace scalebits {
namespace {

using testing_models::read_text;
using testing_models::TemporaryFolder;
using testing_models::write_text;

/// Every byte a token, and an end token.
std::string byte_tokenizer() {
  Json vocab = Json::object();
  const auto name_of_byte = [](int byte) -> std::string {
    // GPT-2's alphabet: printable bytes are themselves, the rest go to U+0100 and on.
    const auto printable = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
    int point = byte;
    if (!printable(byte)) {
      point = 256;
      for (int b = 0; b < byte; ++b) point += !printable(b);
    }
    if (point < 128) return std::string(1, static_cast<char>(point));
    return {static_cast<char>(0xc0 | (point >> 6)), static_cast<char>(0x80 | (point & 63))};
  };
  for (int byte = 0; byte < 256; ++byte) vocab[name_of_byte(byte)] = byte;
  vocab["<|endoftext|>"] = 256;
  return Json{{"version", "1.0"},
              {"added_tokens",
               {{{"id", 256},
                 {"content", "<|endoftext|>"},
                 {"special", true},
                 {"single_word", false},
                 {"lstrip", false},
                 {"rstrip", false},
                 {"normalized", false}}}},
              {"normalizer", nullptr},
              {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
              {"decoder", {{"type", "ByteLevel"}}},
              {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}}
      .dump();
}

struct Workplace {
  TemporaryFolder folder;
  TrainJob job;

  explicit Workplace(const Json& changes = Json::object()) {
    set_thread_count(1);  // steps of a millisecond, for which threads would only wait
    write_text(folder / "tokenizer/tokenizer.json", byte_tokenizer());
    write_text(folder / "tokenizer/tokenizer_config.json", R"({"eos_token":"<|endoftext|>"})");
    std::string text;
    for (int i = 0; i < 400; ++i) text += fmt::format("{} and {} make {}. ", i % 7, i % 5, i % 7 + i % 5);
    write_text(folder / "text.txt", text);
    Json json = {{"model", {{"layers", 2}, {"hidden", 32}, {"intermediate", 48}, {"heads", 4}}},
                 {"tokenizer", (folder / "tokenizer").string()},
                 {"window_length", 32},
                 {"batch_windows", 4},
                 {"validation_windows", 4},
                 {"steps", 24},
                 {"warmup_steps", 4},
                 {"learning_rate", 0.01},
                 {"validation_interval", 8},
                 {"checkpoint_interval", 100},
                 {"update_interval", 8},
                 {"scheme", "snip"}};
    json.update(changes);
    job = {train_config_from_json(json, {}, "test"), {folder / "text.txt"}, folder / "run"};
  }
};

/// What must be the same in two runs: all but times.
std::string losses(const std::filesystem::path& run) {
  std::ifstream file(run / "log.jsonl");
  std::string text;
  for (std::string line; std::getline(file, line);) {
    Json json = parse_json(line, "log");
    for (const char* time : {"seconds", "tokens_per_second", "scheme_seconds"}) json.erase(time);
    text += json.dump() + "\n";
  }
  return text;
}

TEST(Trainer, LearnsAndWritesAModel) {
  Workplace place;
  const TrainReport report = train(place.job);
  EXPECT_LT(report.validation_loss, 4.5);  // a uniform guess of 257 tokens is 5.55
  EXPECT_GE(report.fp4_share, 0.5);
  const auto latest = load_latest(place.job.output);
  ASSERT_TRUE(latest);
  EXPECT_EQ(latest->state.step, 24u);
  EXPECT_EQ(latest->checkpoint.spec.vocab, 257);
  EXPECT_TRUE(latest->checkpoint.tokenizer);
  EXPECT_NE(read_text(place.job.output / "loss.svg").find("</svg>"), std::string::npos);
  // All steps are there, and asking again makes none.
  EXPECT_EQ(train(place.job).first_step, 24u);
}

TEST(Trainer, GoesOnAfterAnInterruptionAsIfNoneHadBeen) {
  Workplace whole(Json{{"checkpoint_interval", 7}}), cut(Json{{"checkpoint_interval", 7}});
  cut.job.config.tokenizer = whole.job.config.tokenizer, cut.job.data = whole.job.data;
  train(whole.job);
  // Stopped in the midst of things: behind a step that no checkpoint holds, with a scheme asked for and not installed.
  for (const int stop_after : {9, 10, 4}) {
    int steps = 0;
    try {
      train(cut.job, [&](const ProgressReport&) {
        if (++steps == stop_after) throw std::runtime_error("killed");
      });
      FAIL() << "was not stopped";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "killed");
    }
    // The line being written when it was killed; those of checkpointed steps are whole by then.
    std::filesystem::resize_file(cut.job.output / "log.jsonl",
                                 std::filesystem::file_size(cut.job.output / "log.jsonl") - 3);
    interrupt_requested = true;
    EXPECT_THROW(train(cut.job), Error);
    interrupt_requested = false;
  }
  train(cut.job);
  EXPECT_EQ(losses(cut.job.output), losses(whole.job.output));
  for (const char* file : {"checkpoint-00000024/model.safetensors", "checkpoint-00000024.state"})
    EXPECT_EQ(read_text(cut.job.output / file), read_text(whole.job.output / file)) << file;
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(cut.job.output))
    names.insert(entry.path().filename().string());
  EXPECT_EQ(names, (std::set<std::string>{"checkpoint-00000024", "checkpoint-00000024.state", "latest.json",
                                          "log.jsonl", "loss.svg"}));
}

TEST(Trainer, StartsFromARunAndFromAModel) {
  Workplace base(Json{{"scheme", "bf16"}});
  train(base.job);
  const auto branch = [&](const Json& start, const char* name) {
    Json json = to_json(base.job.config);
    json["model"] = nullptr, json["tokenizer"] = "", json["steps"] = 30, json["scheme"] = "fp4";
    json.update(start);
    TrainJob job = base.job;
    job.config = train_config_from_json(json, {}, "branch"), job.output = base.folder / name;
    return train(job);
  };
  const TrainReport run = branch({{"start_run", base.job.output.string()}}, "from_run");
  EXPECT_EQ(run.first_step, 24u);
  EXPECT_EQ(run.fp4_share, 1);
  const TrainReport model = branch({{"start_model", (base.job.output / "checkpoint-00000024").string()}}, "from_model");
  EXPECT_EQ(model.first_step, 0u);
  EXPECT_LT(model.training_loss, 4.0);
}

std::string message_of(const TrainJob& job) {
  try {
    train(job);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Json with_start(const TrainConfig& config, const std::filesystem::path& run) {
  Json json = to_json(config);
  json["model"] = nullptr, json["tokenizer"] = "", json["start_run"] = run.string();
  return json;
}

TEST(Trainer, StartsFromARunWithItsClipping) {
  Workplace base(Json{{"scheme", "bf16"}, {"steps", 6}, {"clip_norm", 0.01}});
  train(base.job);
  TrainJob branch = base.job;
  branch.config = train_config_from_json(with_start(base.job.config, base.job.output), {}, "branch");
  branch.config.steps = 9, branch.output = base.folder / "branch";
  const double scale = load_latest(base.job.output)->state.gradient_scale;
  EXPECT_LT(scale, 1);
  EXPECT_EQ(open_run(branch, 0).state.gradient_scale, scale);
}

TEST(Trainer, InstallsWhatItAskedForAtTheShortestInterval) {
  Workplace place(Json{{"update_interval", kInstallDelay}, {"steps", 9}});
  train(place.job);
  std::ifstream file(place.job.output / "log.jsonl");
  std::vector<std::uint64_t> installed;
  for (std::string line; std::getline(file, line);)
    if (const Json json = parse_json(line, "log"); json.contains("scheme")) {
      installed.push_back(json.at("step"));
      EXPECT_EQ(scheme_from_json(open_run(place.job, 0).parameters->spec(), json.at("scheme"), "log").size(), 14u);
    }
  EXPECT_EQ(installed, (std::vector<std::uint64_t>{0, 4, 6, 8}));
}

TEST(Trainer, StopsWhenTheLossIsLostAndKeepsACheckpointToGoOnFrom) {
  Workplace place(Json{{"scheme", "bf16"},
                       {"steps", 200},
                       {"warmup_steps", 60},
                       {"learning_rate", 2},
                       {"clip_norm", 1000},
                       {"checkpoint_interval", 1},
                       {"divergence_margin", 0.5}});
  const std::string message = message_of(place.job);
  EXPECT_NE(message.find("diverges"), std::string::npos) << message;
  const auto at = message.find("the last good checkpoint is that of step ");
  ASSERT_NE(at, std::string::npos) << message;
  const auto good = std::stoull(message.substr(at + 41));
  const std::filesystem::path folder = checkpoint_folder(place.job.output, good);
  EXPECT_NE(message.find(folder.string()), std::string::npos) << message;
  // It was saved before the loss was lost, and training from it at a rate that it bears learns.
  const TrainState lost = load_latest(place.job.output)->state;
  EXPECT_LT(good, lost.step);
  EXPECT_LT(load_run(folder)->state.smoothed_loss, lost.lowest_smoothed_loss + 0.25);
  TrainJob rescue = place.job;
  rescue.config = train_config_from_json(with_start(place.job.config, folder), {}, "rescue");
  rescue.config.learning_rate = 0.001, rescue.config.clip_norm = 1, rescue.config.steps = good + 20;
  rescue.config.warmup_steps = 1, rescue.output = place.folder / "rescue";
  EXPECT_LT(train(rescue).training_loss, lost.lowest_smoothed_loss + 0.25);
}

TEST(Trainer, SavesNoWeightsThatAreNotFinite) {
  Workplace place(Json{{"scheme", "bf16"}, {"learning_rate", 1e39}, {"checkpoint_interval", 1}, {"warmup_steps", 0}});
  const std::string message = message_of(place.job);
  EXPECT_NE(message.find("step 1: the weights of"), std::string::npos) << message;
  EXPECT_NE(message.find("no checkpoint had been saved"), std::string::npos) << message;
  EXPECT_FALSE(load_latest(place.job.output));
}

TEST(Trainer, RemovesNoCheckpointsButItsOwn) {
  Workplace place(Json{{"scheme", "bf16"}, {"steps", 6}, {"checkpoint_interval", 2}});
  for (const char* other : {"checkpoint-500/model.txt", "checkpoint-notes.txt", "checkpoint-00000002-kept/a.txt"})
    write_text(place.job.output / other, "another's");
  train(place.job);
  for (const char* other : {"checkpoint-500/model.txt", "checkpoint-notes.txt", "checkpoint-00000002-kept/a.txt"})
    EXPECT_EQ(read_text(place.job.output / other), "another's") << other;
  EXPECT_FALSE(std::filesystem::exists(checkpoint_folder(place.job.output, 4)));
  EXPECT_TRUE(is_whole_checkpoint(checkpoint_folder(place.job.output, 6)));
  const std::string foreign = R"({"step":1,"loss":2.5})"
                              "\n";
  write_text(place.folder / "other/log.jsonl", foreign);
  place.job.output = place.folder / "other";
  EXPECT_NE(message_of(place.job).find("another program's log"), std::string::npos);
  EXPECT_EQ(read_text(place.folder / "other/log.jsonl"), foreign);
  place.job.output = place.folder / "text.txt";
  EXPECT_NE(message_of(place.job).find("text.txt: a run is kept in a folder"), std::string::npos);
}

TEST(Trainer, GoesOnWithoutItsLatestFileAndKeepsForeignFolders) {
  Workplace place(Json{{"scheme", "bf16"}, {"steps", 6}, {"checkpoint_interval", 2}});
  // As after a kill between the first checkpoint and latest.json.
  train(place.job);
  std::filesystem::remove(place.job.output / "latest.json");
  EXPECT_EQ(train(place.job).first_step, 6u);
  // A folder called like a checkpoint, in a run and where no run is.
  write_text(place.job.output / "checkpoint-00000500/mine", "another's");
  write_text(place.folder / "fresh/checkpoint-00000500/mine", "another's");
  write_text(place.folder / "plotted/loss.svg", "another's");
  EXPECT_NE(message_of(place.job).find("checkpoint-00000500: has a checkpoint's name and is none"), std::string::npos);
  place.job.output = place.folder / "fresh";
  EXPECT_NE(message_of(place.job).find("checkpoint-00000500: has a checkpoint's name and is none"), std::string::npos);
  EXPECT_EQ(read_text(place.folder / "fresh/checkpoint-00000500/mine"), "another's");
  place.job.output = place.folder / "plotted";
  EXPECT_NE(message_of(place.job).find("holds no run's files but a loss.svg"), std::string::npos);
  // Within a run that goes on.
  place.job.output = place.folder / "long";
  place.job.config.steps = 8;
  write_text(place.job.output / "log.jsonl", "");
  int steps = 0;
  const auto killed_after_five = [&](const ProgressReport&) {
    if (++steps == 5) throw std::runtime_error("killed");
  };
  EXPECT_THROW(train(place.job, killed_after_five), std::runtime_error);
  write_text(place.job.output / "checkpoint-00000001/mine", "another's");
  EXPECT_EQ(train(place.job).first_step, 4u);
  EXPECT_EQ(read_text(place.job.output / "checkpoint-00000001/mine"), "another's");
}

TEST(Trainer, GoesOnAfterAKillWithinACheckpoint) {
  for (const char* left : {"checkpoint-00000002.partial/config.json.partial", "checkpoint-00000002.state.partial"}) {
    Workplace place(Json{{"scheme", "bf16"}, {"steps", 6}, {"checkpoint_interval", 2}});
    write_text(place.job.output / left, "{");
    EXPECT_EQ(train(place.job).steps, 6u);
    EXPECT_FALSE(std::filesystem::exists(place.job.output / left)) << left;
  }
}

TEST(Trainer, OneRunAtATimeWorksInAFolder) {
  Workplace place(Json{{"scheme", "bf16"}, {"steps", 6}});
  std::string message;
  train(place.job, [&](const ProgressReport&) {
    if (message.empty()) message = message_of(place.job);
  });
  EXPECT_NE(message.find("another run works in this folder"), std::string::npos) << message;
}

TEST(Trainer, NamesTheLastGoodCheckpointWhenTheNewestIsDamaged) {
  Workplace place(Json{{"scheme", "bf16"}, {"steps", 6}, {"checkpoint_interval", 2}});
  train(place.job);
  std::filesystem::resize_file(checkpoint_folder(place.job.output, 6) / "model.safetensors", 100);
  const std::string message = message_of(place.job);
  EXPECT_NE(message.find("checkpoint-00000006"), std::string::npos) << message;
  EXPECT_NE(message.find("the only checkpoint"), std::string::npos) << message;
}

TEST(Trainer, RefusesAnotherRunsFolder) {
  Workplace place(Json{{"scheme", "bf16"}, {"steps", 6}});
  train(place.job);
  place.job.config.learning_rate = 0.02;
  EXPECT_NE(message_of(place.job).find("'learning_rate' was 0.01, is 0.02"), std::string::npos)
      << message_of(place.job);
  // The order of keys is none of a run's options.
  place.job.config.learning_rate = 0.01;
  place.job.config.model = Json{{"heads", 4}, {"intermediate", 48}, {"hidden", 32}, {"layers", 2}};
  EXPECT_EQ(train(place.job).first_step, 6u);
}

TEST(TrainConfig, RefusesWhatItDoesNotKnow) {
  const auto refused = [](const Json& changes) {
    Json json = {{"model", {{"layers", 2}}}, {"tokenizer", "t"}};
    json.update(changes);
    EXPECT_THROW(require_valid(train_config_from_json(json, {}, "test"), "test"), Error) << changes.dump();
  };
  refused({{"lerning_rate", 1}});
  refused({{"steps", "many"}});
  refused({{"steps", -1}});
  refused({{"per_product", 1}});
  refused({{"start_model", "m"}});
  refused({{"scheme", "best"}});
  refused({{"scheme", "file"}});
  refused({{"fp4_share", 1.5}});
  refused({{"scheme", "snip"}, {"update_interval", 1}});
  refused({{"scheme", "snip"}, {"low", "bf16"}});
  refused({{"batch_windows", std::numeric_limits<std::int64_t>::max()}});
  refused({{"epsilon", 1e-50}});
  refused({{"beta2", 0.99999999999}});
  const TrainConfig config = train_config_from_json({{"start_model", "m"}, {"seed", 9}}, {}, "test");
  EXPECT_EQ(to_json(train_config_from_json(to_json(config), {}, "again")), to_json(config));
}

TEST(TrainData, ShowsEachWindowOnceInAnEpoch) {
  Workplace place;
  const auto tokenizer = Tokenizer::from_folder(place.folder / "tokenizer");
  TrainDataOptions options{.window_length = 16, .batch_windows = 5, .validation_windows = 7, .seed = 3};
  const TrainData data(place.job.data, *tokenizer, 257, options);
  const auto batches = static_cast<std::uint64_t>(data.training_windows() / 5);
  std::multiset<std::string> seen;
  const auto keep = [&](const at::Tensor& rows) {
    for (std::int64_t row = 0; row < rows.size(0); ++row)
      seen.insert({reinterpret_cast<const char*>(rows.const_data_ptr<std::int64_t>() + row * 16), 16 * 8});
  };
  for (std::uint64_t step = 0; step < batches; ++step) keep(data.batch(step));
  keep(data.validation());
  // The text repeats itself, so windows are counted against a plain cut of it.
  const std::string text = read_text(place.folder / "text.txt");
  std::multiset<std::string> all;
  for (std::size_t first = 0; first + 16 <= text.size(); first += 16) {
    std::string window;
    for (std::size_t i = 0; i < 16; ++i) {
      const std::int64_t id = static_cast<unsigned char>(text[first + i]);
      window.append(reinterpret_cast<const char*>(&id), 8);
    }
    all.insert(window);
  }
  EXPECT_LE(all.size() - seen.size(), 5u);
  EXPECT_TRUE(std::includes(all.begin(), all.end(), seen.begin(), seen.end()));
  EXPECT_TRUE(at::equal(data.batch(2), data.batch(2)));
  EXPECT_FALSE(at::equal(data.batch(2), data.batch(2 + batches)));
  options.seed = 4;
  EXPECT_TRUE(at::equal(TrainData(place.job.data, *tokenizer, 257, options).validation(), data.validation()));
  options.validation_windows = 100000;
  EXPECT_THROW(TrainData(place.job.data, *tokenizer, 257, options), Error);
}

TEST(Schedule, WarmsUpAndFallsAlongACosine) {
  const Schedule schedule{.peak = 2, .lowest_share = 0.1, .warmup_steps = 10, .steps = 110};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 9), 2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 10), 2);
  EXPECT_NEAR(learning_rate(schedule, 60), (2 + 0.2) / 2, 1e-12);
  EXPECT_NEAR(learning_rate(schedule, 110), 0.2, 1e-12);
}

TEST(AdamW, IsThePlainFormula) {
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  Parameters parameters = Parameters::random(spec, 1);
  Parameter& matrix = parameters.of_linear(0, LinearKind::q);
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-6, .weight_decay = 0.5};
  double value = matrix.value.data_ptr<float>()[5], mean = 0, square = 0;
  for (std::uint64_t step = 0; step < 3; ++step) {
    const double gradient = 0.5 + static_cast<double>(step);
    for (Parameter& parameter : parameters.all()) parameter.gradient.fill_(gradient);
    adamw_update(parameters, options, {.rate = 0.01, .step = step, .gradient_scale = 0.5});
    mean = 0.8 * mean + 0.2 * gradient / 2, square = 0.9 * square + 0.1 * gradient * gradient / 4;
    const double count = static_cast<double>(step) + 1;
    value -= 0.01 * (mean / (1 - std::pow(0.8, count)) / (std::sqrt(square / (1 - std::pow(0.9, count))) + 1e-6) +
                     0.5 * value);
    EXPECT_NEAR(matrix.value.data_ptr<float>()[5], value, 1e-6);
  }
  EXPECT_NEAR(gradient_norm(parameters), 2.5 * std::sqrt([&] {
                                           double elements = 0;
                                           for (const Parameter& parameter : parameters.all())
                                             elements += static_cast<double>(parameter.value.numel());
                                           return elements;
                                         }()),
              1e-3);
  EXPECT_DOUBLE_EQ(clip_scale(4, 1), 0.25);
  EXPECT_DOUBLE_EQ(clip_scale(0.5, 1), 1);
}

}  // namespace
}  // namespace scalebits
