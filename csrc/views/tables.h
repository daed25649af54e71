// The columns that the view kernels read and write, as raw memory on the device of the kernel.
// Torch-free: CPU kernels, CUDA kernels and the emulator include this file unchanged.
#pragma once

#include "overlap.h"
#include "sampling.h"

namespace stor {

struct VideoTable {
  const int64_t *frames, *heights, *widths, *keys;
  int64_t size;

  STOR_HOST_DEVICE VideoShape shape(int64_t row) const {
    return {frames[row], heights[row], widths[row]};
  }
  STOR_HOST_DEVICE uint64_t key(int64_t row) const { return static_cast<uint64_t>(keys[row]); }
};

struct PairTable {
  MutableViewTable first, second;
  int64_t *spatial_class, *temporal_class, *playback_class;
  int64_t* rotation_class;  // (B, 2)

  STOR_HOST_DEVICE void set(int64_t row, const ViewPair& pair) const {
    first.set(row, pair.first);
    second.set(row, pair.second);
    spatial_class[row] = pair.spatial_class;
    temporal_class[row] = pair.temporal_class;
    playback_class[row] = pair.playback_class;
    rotation_class[2 * row] = pair.rotation_class[0];
    rotation_class[2 * row + 1] = pair.rotation_class[1];
  }
};

struct OverlapTable {
  float *spatial, *temporal, *joint;

  STOR_HOST_DEVICE void set(int64_t index, const Overlap& overlap) const {
    spatial[index] = static_cast<float>(overlap.spatial);
    temporal[index] = static_cast<float>(overlap.temporal);
    joint[index] = static_cast<float>(overlap.joint());
  }
};

}  // namespace stor
