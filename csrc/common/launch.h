// What every CUDA launcher needs of torch.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>

#include "check.h"

namespace stor {

// Makes the tensor's device current for its lifetime, and knows the stream that torch uses there.
class LaunchScope {
 public:
  explicit LaunchScope(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline unsigned checked_grid(const char* op, int64_t blocks) {
  STOR_CHECK(blocks <= std::numeric_limits<int32_t>::max(), op,
             ": expected a batch of at most 2^31 - 1 blocks, got ", blocks, ": split it");
  return static_cast<unsigned>(blocks);
}

}  // namespace stor
