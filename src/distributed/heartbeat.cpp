#include "distributed/heartbeat.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>
#include <vector>

namespace scalebits {
namespace {

constexpr int kSilence = 30;                   // seconds
constexpr int kSilenceBefore = kSilence + 60;  // of who has never been heard of: those who meet wait themselves
constexpr int kSuspicion = 3;                  // seconds of silence of a process that is known to have ended
constexpr std::chrono::seconds kUntilSuspicion{kSuspicion + 3};
constexpr std::chrono::seconds kGrace{2};
constexpr char kDone[] = "done", kFailed[] = "failed";

std::vector<std::uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

}  // namespace

Heartbeat::Heartbeat(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                     std::function<void(const std::string&)> on_lost)
    : store_(std::move(store)), rank_(rank), size_(size), on_lost_(std::move(on_lost)),
      seen_(static_cast<std::size_t>(size)), thread_([this] { run(); }), minder_([this] { mind_the_time(); }) {}

Heartbeat::~Heartbeat() { stop(); }

void Heartbeat::stop() {
  const auto set = [this](bool& flag) {
    {
      const std::lock_guard lock(mutex_);
      flag = true;
    }
    wake_.notify_all();
  };
  set(stop_);
  if (thread_.joinable()) thread_.join();  // which may wait for an answer, so its minder stays until it has one
  set(stopped_);
  if (minder_.joinable()) minder_.join();
}

void Heartbeat::end(bool done) {
  stop();
  try {
    store_->set(fmt::format("beat/{}", rank_), bytes_of(done ? kDone : kFailed));
    // The first process keeps the store: it stays until nobody needs it, or as long as silence is borne.
    for (int second = 0; rank_ == 0 && done && second < kSilence; ++second) {
      if (!look().empty()) break;
      bool all = true;
      for (int other = 1; other < size_; ++other) all = all && seen_[static_cast<std::size_t>(other)].done;
      if (all) break;
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  } catch (const std::exception&) {  // the store is gone, and with it whoever would read this
  }
}

std::string Heartbeat::look() {
  for (int other = 0; other < size_; ++other) {
    Seen& seen = seen_[static_cast<std::size_t>(other)];
    if (other == rank_ || seen.done) continue;
    const std::string key = fmt::format("beat/{}", other);
    std::string beat;
    if (store_->check({key})) {
      const std::vector<std::uint8_t> value = store_->get(key);
      beat.assign(value.begin(), value.end());
    }
    seen.silent_seconds = beat == seen.beat ? seen.silent_seconds + 1 : 0;
    seen.beat = beat;
    seen.done = beat == kDone;
    if (beat == kFailed) return fmt::format("process {} of {} has failed; its own message says why", other, size_);
    if (const int borne = beat.empty() ? kSilenceBefore : kSilence; seen.silent_seconds > borne)
      return fmt::format("process {} of {} has not been heard of for {} seconds", other, size_, borne);
  }
  return "";
}

std::string Heartbeat::longest_silent() const {
  const auto longest = std::ranges::max_element(seen_, {}, &Seen::silent_seconds);
  if (longest->silent_seconds < kSuspicion) return "";
  return fmt::format("process {} of {} has fallen silent: it was killed, or hangs, or its machine is gone",
                     longest - seen_.begin(), size_);
}

std::string Heartbeat::wait_for_silence() {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, kUntilSuspicion, [this] { return !silent_.empty(); });
  return silent_;
}

void Heartbeat::run() {
  for (std::uint64_t count = 0;; ++count) {
    std::string lost;
    try {
      store_->set(fmt::format("beat/{}", rank_), bytes_of(std::to_string(count)));
      lost = look();
    } catch (const std::exception&) {
      lost = fmt::format("process 0 of {}, which the others find each other by, has ended", size_);
    }
    std::unique_lock lock(mutex_);
    unanswered_seconds_ = 0;
    silent_ = !lost.empty() ? lost : longest_silent();
    wake_.notify_all();
    if (!lost.empty()) {
      // What ended another may end this one, too, which then says it itself.
      if (wake_.wait_for(lock, kGrace, [this] { return stop_; })) return;
      lock.unlock();
      return tell(lost);
    }
    if (wake_.wait_for(lock, std::chrono::seconds(1), [this] { return stop_; })) return;
  }
}

void Heartbeat::mind_the_time() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, std::chrono::seconds(1), [this] { return stopped_; }))
    if (++unanswered_seconds_ > kSilence) {
      lock.unlock();
      return tell(
          fmt::format("process 0 of {}, which the others find each other by, has not been heard of for {} seconds",
                      size_, kSilence));
    }
}

void Heartbeat::tell(const std::string& lost) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(told_, true)) return;
    silent_ = lost;
  }
  wake_.notify_all();
  if (on_lost_) on_lost_(lost);
}

}  // namespace scalebits
