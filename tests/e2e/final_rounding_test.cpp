// The final rounding in the job itself: tuning brings the divergence down and packs what it measured, an interrupted
// one goes on to the same bytes, a time limit makes it shorter, and passes on another device change sums alone.
#include "random_job.h"

#include "core/machine_memory.h"
#include "core/parallel.h"
#include "graph/decoder.h"
#include "pipeline/final_rounding.h"
#include "refine/tune.h"
#include "refine/tuned_matrix.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <string_view>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

/// A random model at uniform widths, and how far any rounding of it is from full precision.
struct Job {
  explicit Job(Family family = Family::llama, bool biases = false)
      : checkpoint(random_checkpoint(true, biases, family)) {
    set_thread_count(1);  // so small a model's threads would wait for each other, and for tests beside this one
    recipe.allocator = Allocator::uniform;
    recipe.rounding = FinalRoundingMethod::tuned;
    recipe.tune = {.steps = 40, .windows_per_step = 12, .rate = 0.03, .side_rate = 0};
    result =
        run_search(checkpoint, calibration, recipe, budget_for(checkpoint, recipe, kLinearWeights * 28 / 80), {}, {});
  }

  double divergence(const PackedBlobs& blobs) {
    CheckpointWeights reference(checkpoint);
    const at::Tensor& ids = calibration.gradient_windows;
    const LossTarget target{LossTarget::Kind::kl, Decoder(checkpoint.spec, reference).hidden(ids), reference.head()};
    RefinedModel model(checkpoint, result.matrices, blobs);
    model.use(result.state.plan);
    return Decoder(checkpoint.spec, model).loss(ids, target).mean;
  }
  PackedBlobs nearest() const { return PackedBlobs(result.matrices.size()); }
  CodeTuner tuner(const PackedBlobs& start, const TuneOptions& options) {
    engine = make_rounding_engine(device, checkpoint, recipe, alone);
    TuneOptions there = options;
    there.decoder = engine.decoder;
    return CodeTuner(checkpoint, *engine.exact, result.matrices, result.state.plan, start, calibration.gradient_windows,
                     there);
  }
  FinalRounding rounded(const fs::path& folder, bool resume, double seconds_left = 1e30,
                        const ProgressSink& progress = {}) const {
    return final_rounding({checkpoint,
                           calibration,
                           recipe,
                           result,
                           {"checkpoint", "calibration", to_json(recipe)},
                           folder,
                           resume,
                           seconds_left,
                           device},
                          progress);
  }

  Checkpoint checkpoint;
  JobProcesses alone;
  RoundingEngine engine;
  CalibrationSet calibration = random_calibration();
  Recipe recipe = small_recipe();
  SearchResult result;
  SearchDevice device;
};

/// Removed at the end.
struct Folder {
  Folder() : path(fs::temp_directory_path() / fmt::format("scalebits-rounding-{}", ::getpid())) {
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

PackedBlobs run(CodeTuner&& tuner) {
  while (tuner.steps_done() < tuner.steps()) tuner.step();
  return tuner.blobs();
}

TEST(Tuning, BringsTheDivergenceDownAndPacksWhatItMeasured) {
  for (const Family family : {Family::llama, Family::opt}) {
    Job job(family, family == Family::opt);
    const double before = job.divergence(job.nearest());
    CodeTuner tuner = job.tuner(job.nearest(), job.recipe.tune);
    EXPECT_NEAR(tuner.step(), before, 1e-5 * before) << "the first step sees the codes it starts from";
    const PackedBlobs tuned = run(std::move(tuner));
    EXPECT_LT(job.divergence(tuned), 0.8 * before);
  }
}

TEST(Tuning, GoesTheHostsWayWhereverThePassesRun) {
  for (const Compute compute : {Compute::f32, Compute::bf16})
    for (const bool offload : {false, true}) {
      SCOPED_TRACE(fmt::format("{}, {}", compute == Compute::f32 ? "f32" : "bf16", offload ? "offloaded" : "kept"));
      Job job;
      job.recipe.compute = compute;
      CodeTuner host = job.tuner(job.nearest(), job.recipe.tune);
      const double first = host.step(), tuned = job.divergence(run(std::move(host)));
      job.device = {.kind = SearchDevice::Kind::cpu_tensors, .offload = offload};
      CodeTuner there = job.tuner(job.nearest(), job.recipe.tune);
      // Sums in another order: a few f32 roundings per layer. With bf16 operands one of them moves an operand by 2^-9.
      EXPECT_NEAR(there.step(), first, (compute == Compute::f32 ? 1e-5 : 1e-2) * first);
      // Adam divides by the gradient's size, so levels whose gradient is near 0 part; what they are worth does not.
      EXPECT_NEAR(job.divergence(run(std::move(there))), tuned, 0.1 * tuned);
    }
}

TEST(Feedback, RoundsTheHostsWayWhereverThePassesRun) {
  for (const Family family : {Family::llama, Family::opt}) {
    Folder folder;
    Job job(family, family == Family::opt);
    job.recipe.rounding = FinalRoundingMethod::gptq;
    const double nearest = job.divergence(job.nearest());
    const FinalRounding host = job.rounded(folder.path, false);
    EXPECT_LT(job.divergence(host.blobs), nearest);
    job.device.kind = SearchDevice::Kind::cpu_tensors;
    const FinalRounding there = job.rounded(folder.path, false);
    // A sum that falls on the other side of a code's cell is a whole code, and all layers behind it see other inputs.
    std::size_t bytes = 0, others = 0;
    for (const LinearKind kind : linear_kinds(job.checkpoint.spec)) {
      const std::size_t m = linear_index(job.checkpoint.spec, 0, kind);
      ASSERT_FALSE(host.blobs[m].empty());
      for (std::size_t i = 0; i < host.blobs[m].size(); ++i, ++bytes) others += host.blobs[m][i] != there.blobs[m][i];
    }
    EXPECT_LT(others, bytes / 100);
    EXPECT_NEAR(there.validation_loss, host.validation_loss, 2e-3 * host.validation_loss);
    EXPECT_NEAR(job.divergence(there.blobs), job.divergence(host.blobs), 0.05 * job.divergence(host.blobs));
  }
}

TEST(Feedback, SweepsMoveCodesAndNoRanges) {
  Folder folder;
  Job job;
  job.recipe.rounding = FinalRoundingMethod::gptq;
  const FinalRounding swept = job.rounded(folder.path, false);
  job.recipe.feedback.sweeps = 0;
  const FinalRounding once = job.rounded(folder.path, false);
  for (const LinearKind kind : {LinearKind::q, LinearKind::k, LinearKind::v}) {  // whose inputs are the same in both
    const std::size_t m = linear_index(job.checkpoint.spec, 0, kind);
    const auto coded = [&](const FinalRounding& rounding) {
      return unpack(PackedMatrix(job.result.matrices[m]->format(), rounding.blobs[m], linear_name(0, kind)));
    };
    const CodedMatrix with = coded(swept), without = coded(once);
    EXPECT_NE(with.codes, without.codes);
    for (std::size_t group = 0; group < with.groups.size(); ++group) {
      ASSERT_EQ(with.groups[group].scale, without.groups[group].scale);
      ASSERT_EQ(with.groups[group].zero, without.groups[group].zero);
    }
  }
}

TEST(Tuning, TunesASearchedEmbeddingAndHeadAsFarAsTheTextHasTheirTokens) {
  for (const bool tied : {true, false}) {
    Job job;
    job.checkpoint = random_checkpoint(tied, false);
    const std::int64_t hidden = job.checkpoint.spec.hidden, vocab = job.checkpoint.spec.vocab;
    at::Tensor& ids = job.calibration.gradient_windows;
    ids.remainder_(vocab / 2);
    job.recipe.bpw.reset();
    job.recipe.budget_bytes = 60'000;
    job.recipe.embedding = EmbeddingMode::search;
    job.result = run_search(job.checkpoint, job.calibration, job.recipe,
                            budget_for(job.checkpoint, job.recipe, *job.recipe.budget_bytes), {}, {});
    const std::size_t embedding = linear_count(job.checkpoint.spec), matrices = job.result.matrices.size();
    ASSERT_EQ(matrices, embedding + (tied ? 1 : 2));
    ASSERT_LT(job.result.state.plan.widths[embedding].front(), 8);

    const PackedBlobs tuned = run(job.tuner(job.nearest(), job.recipe.tune));
    const double divergence = job.divergence(tuned);
    for (std::size_t m = embedding; m < matrices; ++m) {
      ASSERT_FALSE(tuned[m].empty());
      PackedBlobs without = tuned;
      without[m].clear();
      EXPECT_LT(divergence, job.divergence(without)) << (tied ? "tied, " : "") << job.result.matrices[m]->name();
    }
    if (tied) continue;  // the head moves every token's row
    const RoundedMatrix& matrix = *job.result.matrices[embedding];
    std::vector<std::byte> nearest(tuned[embedding].size());
    matrix.pack(job.result.state.plan.widths[embedding], nearest);
    const std::vector<float> rows = PackedMatrix(matrix.format(), tuned[embedding], "tuned").dequantize(),
                             before = PackedMatrix(matrix.format(), nearest, "nearest").dequantize();
    const auto half = static_cast<std::ptrdiff_t>(vocab / 2 * hidden);
    EXPECT_NE(rows, before);
    ASSERT_FALSE(matrix.partition().row_order);
    EXPECT_TRUE(std::equal(rows.begin() + half, rows.end(), before.begin() + half)) << "tokens that were not seen";
  }
}

TEST(Tuning, MovesRangesAndZerosAlone) {
  Job job;
  const double before = job.divergence(job.nearest());
  const PackedBlobs tuned =
      run(job.tuner(job.nearest(), {.steps = 24, .windows_per_step = 12, .rate = 1e-4, .side_rate = 0.1}));
  EXPECT_LT(job.divergence(tuned), 0.95 * before);
}

TEST(Tuning, GoesOnFromItsStateToTheSameBytes) {
  Folder folder;
  Job job;
  const PackedBlobs whole = job.rounded(folder.path, false).blobs;
  int reports = 0;
  const auto interrupt = [&](const ProgressReport& report) {
    if (std::string_view(report.stage) == "tuning" && ++reports == 5) interrupt_requested = true;
  };
  EXPECT_THROW(job.rounded(folder.path, false, 1e30, interrupt), Error);
  interrupt_requested = false;
  int resumed_steps = 0;
  const PackedBlobs resumed =
      job.rounded(folder.path, true, 1e30,
                  [&](const ProgressReport& report) { resumed_steps += report.detail.starts_with("step"); })
          .blobs;
  EXPECT_EQ(resumed_steps, job.recipe.tune.steps - 5);
  EXPECT_EQ(resumed, whole);
  job.recipe.tune.rate = 0.2;
  EXPECT_THROW(job.rounded(folder.path, true), Error) << "another recipe";
  job.recipe.tune.rate = 0.1;
  job.result.state.plan.widths[0][0] ^= 1;
  EXPECT_THROW(job.rounded(folder.path, true), Error) << "another plan";
}

TEST(Tuning, IsLeftOutWhereItMakesTheModelWorse) {
  Folder folder;
  Job job;
  job.recipe.tune.steps = 6;
  job.recipe.tune.rate = 100;  // to the ends of the ranges
  job.recipe.loss = LossTarget::Kind::kl;
  int steps = 0;
  std::string told;
  const auto listen = [&](const ProgressReport& report) {
    if (report.stage != "tuning") return;
    told = report.detail;
    if (++steps == 3) interrupt_requested = true;
  };
  EXPECT_THROW(job.rounded(folder.path, false, 1e30, listen), Error);
  interrupt_requested = false;
  const FinalRounding resumed = job.rounded(folder.path, true, 1e30, listen);
  EXPECT_NE(told.find("left out"), std::string::npos) << told;
  const FinalRounding whole = job.rounded(folder.path, false);
  job.recipe.rounding = FinalRoundingMethod::gptq;
  const FinalRounding gptq = job.rounded(folder.path, false);
  EXPECT_EQ(whole.blobs, gptq.blobs);
  EXPECT_EQ(whole.validation_loss, gptq.validation_loss);
  EXPECT_EQ(resumed.blobs, gptq.blobs);
}

TEST(Tuning, TakesFewerStepsUnderATimeLimit) {
  Folder folder;
  Job job;
  job.recipe.tune.steps = 1000000;
  int steps = 0;
  const auto start = std::chrono::steady_clock::now();
  job.rounded(folder.path, false, 2.0,
              [&](const ProgressReport& report) { steps += report.detail.starts_with("step"); });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  EXPECT_GE(steps, 3) << "those that are timed, and one more";
}

TEST(Tuning, GoesAsIfItWereMeantWhenStepsBecomeFewer) {
  Job job;
  TuneOptions few = job.recipe.tune, many = few;
  few.steps = 4;
  for (const int steps : {4, 8, 40}) {
    many.steps = steps;
    CodeTuner shortened = job.tuner(job.nearest(), many);
    shortened.shorten(few.steps);
    const PackedBlobs found = run(std::move(shortened));
    EXPECT_EQ(found, run(job.tuner(job.nearest(), few))) << steps << " steps";
    EXPECT_NE(found, job.nearest());
  }
}

TEST(Tuning, IsRefusedBeforehandWhereMemoryDoesNotSuffice) {
  Job job;
  require_memory_for_rounding(job.checkpoint.spec, job.recipe);
  ModelSpec large = job.checkpoint.spec;
  large.layers = 100'000'000;
  try {
    require_memory_for_rounding(large, job.recipe);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported_hardware);
    EXPECT_NE(std::string(error.what()).find("rounding=gptq"), std::string::npos);
  }
  job.recipe.rounding = FinalRoundingMethod::gptq;
  require_memory_for_rounding(large, job.recipe);
}

TEST(Tuning, CountsAnEmbeddingThatARuleRounds) {
  Job job;
  job.recipe.embedding = EmbeddingMode::sixteen_bits;
  ModelSpec spec = job.checkpoint.spec;
  spec.vocab = static_cast<std::int64_t>(machine_memory_bytes()) / spec.hidden;
  require_memory_for_rounding(spec, job.recipe);
  job.recipe.keep = {{std::string(kEmbeddingName), 8}};
  require_memory_for_rounding(spec, job.recipe);
  job.recipe.keep = {{std::string(kEmbeddingName), 4}};
  EXPECT_THROW(require_memory_for_rounding(spec, job.recipe), Error);
}

/// One of two stages, of which nothing is heard.
struct FirstOfTwo : PipelineStage {
  int index() const override { return 0; }
  int count() const override { return 2; }
  void send(const at::Tensor&, int) override { throw InternalError("nothing is sent here"); }
  void receive(const at::Tensor&, int) override { throw InternalError("nothing is received here"); }
  void broadcast(const at::Tensor&, int) override { throw InternalError("nothing is told here"); }
};

TEST(Tuning, CountsAllStagesThatShareTheMachine) {
  Job job;
  ModelSpec spec = job.checkpoint.spec;
  const double layer = static_cast<double>(layer_weight_count(spec)) *
                       tuning_bytes_per_weight(job.recipe.groups.group_cols, job.recipe.tune.side_rate > 0);
  spec.layers = std::llround(static_cast<double>(machine_memory_bytes()) / layer);  // half of it for each of two
  const FirstOfTwo stage;
  EXPECT_THROW(require_memory_for_rounding(spec, job.recipe), Error) << "one process";
  require_memory_for_rounding(spec, job.recipe, &stage);
  EXPECT_THROW(require_memory_for_rounding(spec, job.recipe, &stage, 2), Error);
}

}  // namespace
}  // namespace scalebits
