// The processes that work at one job together. Each is started with the same arguments and finds the others by RANK,
// WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them. The engine is torch's c10d with gloo: what travels is
// a number per block, made on the host, so that host memory and TCP serve for GPUs, too.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace scalebits {

/// Every process calls the same methods in the same order. All but lost() throw Error(lost_process) when another
/// process has ended meanwhile.
class ProcessGroup {
 public:
  /// What is to be done, on a thread of its own, when another process has ended or has not been heard of for
  /// half a minute: whoever computes meanwhile would not notice. The message names the process. It need not return.
  using OnLost = std::function<void(const std::string& message)>;

  /// A single process.
  ProcessGroup();
  /// That of the environment; a single process when it names none. Waits up to a minute for the others. Throws
  /// Error(usage) naming a variable that is missing or not what it must be, Error(lost_process) when not all have come.
  static ProcessGroup from_environment(OnLost on_lost);
  /// Of a process that has not called leave(): tells the others that it failed.
  ~ProcessGroup();
  ProcessGroup(ProcessGroup&&) noexcept;
  ProcessGroup& operator=(ProcessGroup&&) noexcept;

  int rank() const;
  int size() const;
  /// How many of the group's processes run on this one's host, itself counted.
  int on_this_host() const;
  /// The one that writes, reports and takes decisions that depend on the clock.
  bool is_first() const { return rank() == 0; }

  /// Overwrites everyone's `tensor` with that of process `root`: CPU, contiguous, of the same shape and type
  /// everywhere.
  void broadcast(const at::Tensor& tensor, int root = 0);
  /// To one process, which receives() it: CPU, contiguous, of the same shape and type on both sides. Returns when the
  /// tensor may be changed.
  void send(const at::Tensor& tensor, int to);
  void receive(const at::Tensor& tensor, int from);
  /// The group of the `size` processes that give the same `name`, this one being number `rank` there. All processes of
  /// this group call it together, once for a name, and it minds for all who is lost.
  ProcessGroup part(const std::string& name, int rank, int size) const;
  /// The first process's value.
  double from_first(double mine);
  /// Whether anyone says so.
  bool any(bool mine);
  /// Throws Error(bad_input), everywhere, when `value` is not the same everywhere; `what` names it.
  void require_same(const std::string& what, const std::string& value);
  struct Shared {
    std::string what, value;
  };
  /// The same of all at once: names the first that differs, and this process's value.
  void require_same(const std::vector<Shared>& all);
  /// The work is done; the others may go on alone. No other method may follow.
  void leave();

 private:
  struct State;
  /// Its place in the list, the list's length when all are alike. The lists are equally long.
  std::size_t first_unlike(const std::vector<Shared>& all);
  std::unique_ptr<State> state_;  // null: a single process
};

}  // namespace scalebits
