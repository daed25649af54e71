// A view: which frames, which box and which orientation of a video become one clip.
// Torch-free: CPU kernels, CUDA kernels and the emulator include this file unchanged.
#pragma once

#include <cstdint>

#include "../common/host_device.h"

namespace stor {

// NaN and both infinities give NaN, which equals nothing.
STOR_HOST_DEVICE bool is_finite(float value) { return value - value == 0.0f; }

STOR_HOST_DEVICE float not_a_number() { return __builtin_nanf(""); }

// Pixel i of an axis covers [i, i + 1); frames likewise. Edges are half-open.
struct Interval {
  double begin;
  double end;
  STOR_HOST_DEVICE double length() const { return end - begin; }
};

struct View {
  int64_t video;     // index into the batch
  float start;       // first source frame
  float stride;      // source frames per output frame
  float box[4];      // x0, y0, x1, y1: edges in source pixels
  bool flip;         // left-right, after the resize
  uint8_t rotation;  // quarter turns counter-clockwise, after the flip

  STOR_HOST_DEVICE Interval columns() const { return {box[0], box[2]}; }
  STOR_HOST_DEVICE Interval rows() const { return {box[1], box[3]}; }
};

// What makes a row of a Views unusable. A kernel that meets one must not guess.
enum class ViewFault : uint8_t {
  kNone,
  kVideo,
  kStart,
  kStride,
  kBoxNotFinite,
  kBoxEmpty,
  kRotation,
};

// num_videos < 0: the number of videos is not known, only negative indices are faults.
STOR_HOST_DEVICE ViewFault find_fault(const View& view, int64_t num_videos) {
  if (view.video < 0 || (num_videos >= 0 && view.video >= num_videos)) return ViewFault::kVideo;
  if (!is_finite(view.start)) return ViewFault::kStart;
  if (!(is_finite(view.stride) && view.stride > 0)) return ViewFault::kStride;
  for (float edge : view.box) {
    if (!is_finite(edge)) return ViewFault::kBoxNotFinite;
  }
  if (!(view.box[0] < view.box[2] && view.box[1] < view.box[3])) return ViewFault::kBoxEmpty;
  if (view.rotation > 3) return ViewFault::kRotation;
  return ViewFault::kNone;
}

// The columns of a Views, as raw contiguous memory on the device of the kernel.
struct ViewTable {
  const int64_t* video;
  const float* start;
  const float* stride;
  const float* box;
  const bool* flip;
  const uint8_t* rotation;
  int64_t size;

  STOR_HOST_DEVICE View operator[](int64_t row) const {
    const float* edges = box + 4 * row;
    return {video[row], start[row],   stride[row], {edges[0], edges[1], edges[2], edges[3]},
            flip[row],  rotation[row]};
  }
};

// The same columns, to be written.
struct MutableViewTable {
  int64_t* video;
  float* start;
  float* stride;
  float* box;
  bool* flip;
  uint8_t* rotation;

  STOR_HOST_DEVICE void set(int64_t row, const View& view) const {
    video[row] = view.video;
    start[row] = view.start;
    stride[row] = view.stride;
    for (int edge = 0; edge < 4; ++edge) box[4 * row + edge] = view.box[edge];
    flip[row] = view.flip;
    rotation[row] = view.rotation;
  }
};

}  // namespace stor
