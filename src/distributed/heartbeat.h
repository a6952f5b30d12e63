// Finds out within half a minute that another process of the group has ended, died or frozen, or that its machine has.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace scalebits {

/// Counts up a number of this process in the store every second and looks at those of the others. The store lies in the
/// first process: when that freezes, questions to it stay unanswered, so a second thread minds the time.
class Heartbeat {
 public:
  /// `store` is this object's own connection. `on_lost` (may be empty) is called once, on a thread of the heartbeat's.
  /// Who has not been heard of at all is waited for as long as the processes take to meet, and then for half a minute.
  Heartbeat(c10::intrusive_ptr<c10d::Store> store, int rank, int size, std::function<void(const std::string&)> on_lost);
  /// Ends without a word to the others, who will take this process for lost.
  ~Heartbeat();
  /// For who has seen that another is gone: which one falls silent within some seconds, in words; empty if none does.
  std::string wait_for_silence();
  /// The last word: `done`, nobody waits for this process any more; otherwise it has failed.
  void end(bool done);

 private:
  void run();
  void mind_the_time();
  void tell(const std::string& lost);
  void stop();
  /// Empty while all goes well, otherwise what to tell.
  std::string look();
  std::string longest_silent() const;

  c10::intrusive_ptr<c10d::Store> store_;
  int rank_, size_;
  std::function<void(const std::string&)> on_lost_;
  struct Seen {
    std::string beat;
    int silent_seconds = 0;
    bool done = false;
  };
  std::vector<Seen> seen_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false, stopped_ = false, told_ = false;
  std::string silent_;  // who has been for a few seconds
  int unanswered_seconds_ = 0;
  std::thread thread_, minder_;
};

}  // namespace scalebits
