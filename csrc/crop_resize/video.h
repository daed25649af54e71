// One video of a batch. Torch-free: CPU kernels, CUDA kernels and the emulator include this file
// unchanged.
#pragma once

#include <cstdint>

namespace stor {

// Strides count elements, so a permuted tensor is read in place. Eight words: a table of these is
// an int64 tensor of 8 columns on its way to a GPU.
struct Video {
  const void* data;
  int64_t frames, height, width;
  int64_t stride_t, stride_y, stride_x, stride_c;
};
static_assert(sizeof(Video) == 8 * sizeof(int64_t));

}  // namespace stor
