#include "pipeline/job_processes.h"

#include "core/error.h"

#include <utility>

namespace scalebits {
namespace {

class ProcessStage : public PipelineStage {
 public:
  explicit ProcessStage(ProcessGroup row) : row_(std::move(row)) {}
  int index() const override { return row_.rank(); }
  int count() const override { return row_.size(); }
  void send(const at::Tensor& tensor, int stage) override { row_.send(tensor, stage); }
  void receive(const at::Tensor& tensor, int stage) override { row_.receive(tensor, stage); }
  void broadcast(const at::Tensor& tensor, int stage) override { row_.broadcast(tensor, stage); }

 private:
  ProcessGroup row_;
};

}  // namespace

JobProcesses::JobProcesses(ProcessGroup& all, int stages) : all_(&all) {
  const int processes = all.size();
  if (stages < 1 || processes % stages != 0)
    fail(ErrorKind::usage, "{} processes cannot be shared out to {} stages: a multiple of it is wanted", processes,
         stages);
  const int stage = all.rank() % stages, replica = all.rank() / stages;
  replicas_ = all.part(fmt::format("stage {}", stage), replica, processes / stages);
  if (stages == 1) return;
  ProcessGroup row = all.part(fmt::format("replica {}", replica), stage, stages);
  stages_here_ = row.on_this_host();
  stage_ = std::make_unique<ProcessStage>(std::move(row));
}

}  // namespace scalebits
