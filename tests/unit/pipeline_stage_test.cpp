// Contract of a pipeline: whatever its layers are shared out to, every family's losses, gradients and linear inputs are
// those of one decoder to the bit, for batches finished at once, begun together, cut, and walked through. Stages are
// threads here, each with a decoder of its own.
#include "graph/decoder.h"
#include "graph/tensor_arithmetic.h"
#include "graph_golden.h"

#include "core/parallel.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace scalebits {
namespace {

using namespace testing_graph;

/// What travels between threads, by (from, to).
class Channels {
 public:
  void put(int from, int to, const at::Tensor& tensor) {
    const std::lock_guard lock(mutex_);
    queues_[{from, to}].push_back(tensor.clone());
    wake_.notify_all();
  }
  void take(int from, int to, const at::Tensor& tensor) {
    std::unique_lock lock(mutex_);
    auto& queue = queues_[{from, to}];
    ASSERT_TRUE(wake_.wait_for(lock, std::chrono::seconds(60), [&] { return !queue.empty(); })) << "nobody sends";
    ASSERT_EQ(queue.front().sizes(), tensor.sizes());
    ASSERT_EQ(queue.front().scalar_type(), tensor.scalar_type());
    tensor.copy_(queue.front());
    queue.pop_front();
  }
  bool empty() {
    for (const auto& [ends, queue] : queues_)
      if (!queue.empty()) return false;
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<std::pair<int, int>, std::deque<at::Tensor>> queues_;
};

class ThreadStage : public PipelineStage {
 public:
  ThreadStage(Channels& channels, int index, int count) : channels_(channels), index_(index), count_(count) {}
  int index() const override { return index_; }
  int count() const override { return count_; }
  void send(const at::Tensor& tensor, int stage) override { channels_.put(index_, stage, tensor); }
  void receive(const at::Tensor& tensor, int stage) override { channels_.take(stage, index_, tensor); }
  void broadcast(const at::Tensor& tensor, int stage) override {
    if (stage != index_) return receive(tensor, stage);
    for (int other = 0; other < count_; ++other)
      if (other != index_) send(tensor, other);
  }

 private:
  Channels& channels_;
  int index_, count_;
};

/// work(stage) on a thread of each stage's own.
void run_stages(int count, const std::function<void(PipelineStage&)>& work) {
  Channels channels;
  std::vector<std::thread> threads;
  for (int index = 0; index < count; ++index)
    threads.emplace_back([&, index] {
      ThreadStage stage(channels, index, count);
      EXPECT_NO_THROW(work(stage)) << "stage " << index;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(channels.empty()) << "something was sent that nobody wanted";
}

struct Found {
  std::vector<double> losses;
  std::map<std::string, at::Tensor> tensors;
};

class Families : public testing::TestWithParam<const char*> {
 protected:
  Families() { set_thread_count(1); }  // each stage's

  const Golden golden_ = read_golden(GetParam());
  const ModelSpec& spec_ = golden_.checkpoint.spec;
  const at::Tensor all_ = at::cat({golden_.ids, golden_.ids.flip({0, 1})});
  const std::vector<at::Tensor> batches_ = {all_.narrow(0, 0, 2).contiguous(), all_.narrow(0, 1, 2).contiguous(),
                                            all_.narrow(0, all_.size(0) - 1, 1).contiguous()};

  /// Of all batches, one after the other or begun together; by one decoder or, with a pipeline, of its own layers.
  Found passes(PipelineStage* pipeline, const DecoderOptions& how, bool together, GradientKind kind) const {
    CheckpointWeights weights(golden_.checkpoint);
    DecoderOptions options = how;
    options.pipeline = pipeline;
    Decoder decoder(spec_, weights, options);
    Found found;
    std::vector<Recorder> recorders(batches_.size());
    std::vector<Decoder::Begun> begun;
    const auto all = static_cast<std::int64_t>(batches_.size());
    for (std::int64_t i = 0; together && i < all; ++i)
      begun.push_back(
          decoder.begin(batches_[static_cast<std::size_t>(i)], i, all, &recorders[static_cast<std::size_t>(i)]));
    for (std::size_t i = 0; i < batches_.size(); ++i) {
      recorders[i].wanted_kind = kind;
      found.losses.push_back(together ? decoder.finish(begun[i], {}, recorders[i]).mean
                                      : decoder.loss_and_gradients(batches_[i], {}, recorders[i]).mean);
      for (const auto& [name, gradient] : recorders[i].gradients)
        found.tensors[fmt::format("{} of {}", name, i)] = gradient;
      for (const auto& [place, sum] : recorders[i].input_sums)
        found.tensors[fmt::format("input {} {} of {}", place.first, static_cast<int>(place.second), i)] = sum;
    }
    found.losses.push_back(decoder.loss(batches_[0], {}).mean);
    const at::Tensor hidden = decoder.hidden(batches_[1]);
    if (hidden.defined()) found.tensors["hidden"] = hidden;
    return found;
  }

  void expect_same(const DecoderOptions& how, bool together, GradientKind kind) const {
    ASSERT_GE(spec_.layers, 2);
    const Found whole = passes(nullptr, how, false, kind);
    for (int count = 2; count <= spec_.layers; ++count) {
      SCOPED_TRACE(fmt::format("{} stages", count));
      std::vector<Found> parts(static_cast<std::size_t>(count));
      run_stages(count, [&](PipelineStage& stage) {
        parts[static_cast<std::size_t>(stage.index())] = passes(&stage, how, together, kind);
      });
      EXPECT_EQ(parts.back().losses, whole.losses);
      std::size_t tensors = 0;
      for (const Found& part : parts)
        for (const auto& [name, tensor] : part.tensors) {
          ++tensors;
          ASSERT_TRUE(whole.tensors.contains(name)) << name;
          EXPECT_TRUE(tensor.equal(whole.tensors.at(name))) << name;
        }
      EXPECT_EQ(tensors, whole.tensors.size()) << "each is found by one stage";
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Pipeline, Families,
                         testing::Values("llama", "llama3_rope", "linear_rope", "mistral", "qwen2", "qwen3", "opt"),
                         [](const auto& family) { return std::string(family.param); });

TEST_P(Families, StagesFindWhatOneDecoderFinds) {
  for (const bool together : {false, true}) {
    SCOPED_TRACE(together ? "begun together" : "one after the other");
    expect_same({}, together, GradientKind::mean);
    expect_same({.compute = Compute::bf16}, together, GradientKind::tokens);
  }
}

TEST_P(Families, AndOnTensorsOfAnotherDevice) {
  expect_same({.place = tensor_place(at::kCPU)}, true, GradientKind::mean);
}

using Place = std::pair<std::int64_t, InputSite>;
struct Inputs : PassObserver {
  std::map<Place, at::Tensor> found;
  std::set<Place> calls;
  bool wants_linear_inputs() const override { return true; }
  void linear_input(std::int64_t layer, InputSite site, const at::Tensor& x) override {
    at::Tensor& all = found[{layer, site}];
    all = calls.insert({layer, site}).second ? x.clone() : at::cat({all, x});
  }
};

constexpr InputSite kSites[] = {InputSite::attention, InputSite::output, InputSite::mlp, InputSite::down};

TEST_P(Families, AWalkThatLooksAtSitesSeesWhatAPassSees) {
  // All windows at once, or just what spans them, so that they run one by one.
  const auto least = static_cast<std::uint64_t>(2 * 4 * spec_.hidden * batches_[0].numel());
  for (const std::uint64_t budget : {std::uint64_t{0}, least}) {
    SCOPED_TRACE(budget);
    CheckpointWeights weights(golden_.checkpoint);
    const DecoderOptions options{.activation_budget_bytes = budget};
    Decoder decoder(spec_, weights, options), other(spec_, weights, options);
    Inputs whole, seen;
    const at::Tensor hidden = other.hidden(batches_[0], &whole);
    Decoder::Walk walk(decoder, batches_[0]);
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      for (const InputSite site : kSites) {
        // Every other layer without its first looks, and with an observer at its end.
        if (layer % 2 == 1 && site < InputSite::mlp) continue;
        walk.look(site, seen);
        EXPECT_EQ(seen.calls, (std::set<Place>{{layer, site}}));
        seen.calls.clear();
      }
      Inputs end;
      walk.advance(layer % 2 == 1 ? &end : nullptr);
      for (const auto& [place, x] : end.found) seen.found[place] = x;
    }
    EXPECT_TRUE(walk.hidden().equal(hidden));
    EXPECT_EQ(seen.found.size(), whole.found.size());
    for (const auto& [place, x] : seen.found) EXPECT_TRUE(x.equal(whole.found.at(place)));
  }
}

TEST_P(Families, AWalkGoesThroughTheStages) {
  const auto walk_through = [&](PipelineStage* pipeline, Inputs& inputs) {
    CheckpointWeights weights(golden_.checkpoint);
    Decoder decoder(spec_, weights, {.pipeline = pipeline});
    Decoder::Walk walk(decoder, batches_[0]);
    for (std::int64_t i = 0; i < own_layers(spec_, pipeline).count(); ++i) {
      for (const InputSite site : kSites) walk.look(site, inputs);
      walk.advance();
    }
    return walk.hidden();
  };
  Inputs whole;
  const at::Tensor hidden = walk_through(nullptr, whole);
  const auto count = static_cast<int>(spec_.layers);
  std::vector<Inputs> parts(static_cast<std::size_t>(count));
  run_stages(count, [&](PipelineStage& stage) {
    const at::Tensor end = walk_through(&stage, parts[static_cast<std::size_t>(stage.index())]);
    EXPECT_EQ(end.defined(), stage.is_last());
    if (end.defined()) {
      EXPECT_TRUE(end.equal(hidden));
    }
  });
  std::size_t found = 0;
  for (const Inputs& part : parts)
    for (const auto& [place, x] : part.found) {
      ++found;
      EXPECT_TRUE(x.equal(whole.found.at(place)));
    }
  EXPECT_EQ(found, whole.found.size());
}

TEST(StageLayers, EachStageHasOneAndTheHeadCounts) {
  ModelSpec spec;
  spec.layers = 30, spec.hidden = 576, spec.intermediate = 1536, spec.heads = 9, spec.kv_heads = 3, spec.head_dim = 64;
  spec.vocab = 49152, spec.tied_head = true;
  EXPECT_EQ(stage_layers(spec, 1, 0).count(), 30);
  EXPECT_EQ(stage_layers(spec, 2, 0).count(), 19) << "the head is as large as eight layers";
  for (const std::int64_t vocab : {std::int64_t{10}, std::int64_t{49152}, std::int64_t{100'000'000}})
    for (int count = 1; count <= 30; ++count) {
      spec.vocab = vocab;
      std::int64_t next = 0;
      for (int stage = 0; stage < count; ++stage) {
        const LayerRange layers = stage_layers(spec, count, stage);
        EXPECT_EQ(layers.first, next);
        EXPECT_GE(layers.count(), 1);
        next = layers.last;
      }
      EXPECT_EQ(next, 30);
    }
  EXPECT_EQ(stage_of_matrix(spec, 3, 0), 0);
  EXPECT_EQ(stage_of_matrix(spec, 3, linear_count(spec) - 1), 2);
  EXPECT_EQ(stage_of_matrix(spec, 3, linear_count(spec)), 2) << "a tied embedding";
  spec.tied_head = false;
  EXPECT_EQ(stage_of_matrix(spec, 3, linear_count(spec)), 0) << "an embedding of its own";
  EXPECT_EQ(stage_of_matrix(spec, 3, linear_count(spec) + 1), 2) << "a head";
}

}  // namespace
}  // namespace scalebits
