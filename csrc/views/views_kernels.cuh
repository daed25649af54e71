// CUDA kernels of sample_view_pairs, overlap_rate and pairwise_overlap_rate: a thread a row or
// pair. What a row without meaning gives is NaN and -100, for an error would cost a
// synchronisation.
#pragma once

#include "../common/device.cuh"
#include "tables.h"

namespace stor {

constexpr int kViewThreads = 256;

// The pair of a video without frames or pixels.
STOR_HOST_DEVICE ViewPair unusable_pair(int64_t video) {
  const float nan = not_a_number();
  const View view{video, nan, nan, {nan, nan, nan, nan}, false, 0};
  return {view, view, kIgnoredClass, kIgnoredClass, kIgnoredClass, {kIgnoredClass, kIgnoredClass}};
}

__global__ void __launch_bounds__(kViewThreads)
    sample_view_pairs_kernel(const SamplingParams params, VideoTable videos, PairTable pairs) {
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (row >= videos.size) return;
  const VideoShape shape = videos.shape(row);
  pairs.set(row, shape.valid() ? sample_view_pair(params, row, shape, videos.key(row))
                               : unusable_pair(row));
}

__global__ void __launch_bounds__(kViewThreads)
    overlap_rate_kernel(ViewTable first, ViewTable second, int64_t clip_frames, OverlapTable out) {
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (row >= first.size) return;
  out.set(row, overlap_or_nan(first[row], second[row], clip_frames, -1));
}

// A block has one first view and walks along the second ones, so that stores lie side by side.
__global__ void __launch_bounds__(kViewThreads)
    pairwise_overlap_rate_kernel(ViewTable first, ViewTable second, int64_t clip_frames,
                                 OverlapTable out) {
  const int64_t row = blockIdx.x;
  const View a = first[row];
  for (int64_t column = threadIdx.x; column < second.size; column += blockDim.x) {
    out.set(row * second.size + column, overlap_or_nan(a, second[column], clip_frames, -1));
  }
}

}  // namespace stor
