// How the processes of a job share its work: in `stages`, each of which has some of the model's layers, and in replicas
// of such a row, each of which reads other windows. Process number p is stage p % stages of replica p / stages.
#pragma once

#include "distributed/process_group.h"
#include "graph/pipeline_stage.h"

#include <memory>

namespace scalebits {

class JobProcesses {
 public:
  /// This process alone.
  JobProcesses() = default;
  /// Keeps a reference; all of its processes make one together. `stages` divides their number: Error(usage) if not.
  JobProcesses(ProcessGroup& all, int stages);

  ProcessGroup& all() { return *all_; }
  const ProcessGroup& all() const { return *all_; }
  /// Those with the same layers.
  ProcessGroup& replicas() { return replicas_; }
  int replica() const { return replicas_.rank(); }
  /// Of this process among those of its replica; null when there is one stage.
  PipelineStage* pipeline() { return stage_.get(); }
  int stages() const { return stage_ ? stage_->count() : 1; }
  /// Of them, how many run on this process's host.
  int stages_here() const { return stages_here_; }

 private:
  ProcessGroup alone_;
  ProcessGroup* all_ = &alone_;
  ProcessGroup replicas_;
  std::unique_ptr<PipelineStage> stage_;
  int stages_here_ = 1;
};

}  // namespace scalebits
