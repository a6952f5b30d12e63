// While one of these lives, numbers too small for a normal f32 count as zero, on the caller's and the OpenMP threads: a
// ruined model's softmax is full of them, and the processor takes a hundred times longer over each.
#pragma once

namespace scalebits {

class DenormalsAreZero {
 public:
  DenormalsAreZero();
  /// Gives the threads their setting back.
  ~DenormalsAreZero();
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  unsigned before_;
};

}  // namespace scalebits
