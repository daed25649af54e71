// Where an output pixel or frame reads its source: positions, taps and weights along one axis.
// Torch-free: CPU kernels, CUDA kernels and the emulator include this file unchanged.
//
// Output i of `size` sits at begin + (i + 0.5) * scale, scale = length / size, and pixel j's centre
// at j + 0.5. Only pixels that the box touches take part (torchvision: crop, then resize); of
// these, the ones outside the frame have the value of its nearest edge pixel. Doubles, since any
// finite float32 is a legal edge; clamped before they become integers.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/host_device.h"
#include "../views/view.h"

namespace stor {

STOR_HOST_DEVICE double clamp(double x, double low, double high) {
  return x < low ? low : (x > high ? high : x);
}

// Source pixels first .. first + count - 1, all inside the frame.
struct Taps {
  int64_t first;
  int64_t count;
};

// One axis of a box, resized to `size` outputs; the frame has `extent` pixels along it.
struct ResampleAxis {
  double begin, scale;
  double low, high;  // pixels low .. high - 1 are the ones that the box touches
  int64_t extent;
  int64_t size;

  STOR_HOST_DEVICE ResampleAxis(Interval box, int64_t axis_extent, int64_t axis_size)
      : begin(box.begin),
        scale(box.length() / static_cast<double>(axis_size)),
        low(floor(box.begin)),
        high(ceil(box.end)),
        extent(axis_extent),
        size(axis_size) {}

  STOR_HOST_DEVICE double centre(int64_t i) const {
    return begin + (static_cast<double>(i) + 0.5) * scale;
  }
  STOR_HOST_DEVICE int64_t inside(double pixel) const {
    return static_cast<int64_t>(
        clamp(clamp(pixel, low, high - 1.0), 0.0, static_cast<double>(extent - 1)));
  }
};

STOR_HOST_DEVICE int64_t max_taps(const ResampleAxis& axis, bool antialias) {
  if (!antialias) return 2;
  const double widest = 2.0 * (axis.scale > 1.0 ? axis.scale : 1.0) + 2.0;
  const double available = static_cast<double>(axis.extent);
  return static_cast<int64_t>(widest < available ? widest : available);
}

// The triangle filter of F.interpolate(antialias=True): one source pixel wide when it enlarges,
// `scale` pixels when it shrinks.
struct Triangle {
  double centre, support;

  STOR_HOST_DEVICE Triangle(const ResampleAxis& axis, int64_t i)
      : centre(axis.centre(i)), support(axis.scale > 1.0 ? axis.scale : 1.0) {}

  STOR_HOST_DEVICE double distance(double pixel) const { return pixel + 0.5 - centre; }
  // The weights of pixels m .. n, which lie within the support, in closed form: a box may reach so
  // far outside the frame that a loop would never end.
  STOR_HOST_DEVICE double sum(double m, double n) const {
    const double turn = clamp(floor(centre - 0.5), m - 1.0, n);  // last pixel left of the centre
    const double left = turn - m + 1.0, right = n - turn;
    const double reach_left = left * -(distance(m) + distance(turn)) / 2.0;
    const double reach_right = right * (distance(turn + 1.0) + distance(n)) / 2.0;
    return (left + right) - (reach_left + reach_right) / support;
  }
};

// The taps of one output and their weights, which sum to 1, without a table.
struct WeightedTaps : Taps {
  float left, right;           // weights of the first and of the last tap
  float nearest, slope, peak;  // between them: peak - slope * |nearest + tap|

  STOR_HOST_DEVICE WeightedTaps(const ResampleAxis& axis, int64_t i, bool antialias) {
    left = right = 1.0f;
    nearest = slope = peak = 0.0f;
    if (antialias) {
      triangle(axis, Triangle(axis, i));
    } else {
      bilinear(axis, axis.centre(i) - 0.5);
    }
  }

  STOR_HOST_DEVICE float weight(int64_t tap) const {
    if (tap == 0) return left;
    return tap == count - 1 ? right : inner(tap);
  }

 private:
  // As F.interpolate(mode="bilinear", align_corners=False).
  STOR_HOST_DEVICE void bilinear(const ResampleAxis& axis, double position) {
    const double below = floor(position);
    first = axis.inside(below);
    count = 1;
    // A weight of 0 would make NaN of an infinite pixel.
    if (first == axis.inside(below + 1.0) || position == below) return;
    count = 2;
    right = static_cast<float>(position - below);
    left = 1.0f - right;
  }

  STOR_HOST_DEVICE void triangle(const ResampleAxis& axis, const Triangle& filter) {
    const double from =
        clamp(floor(filter.centre - filter.support + 0.5), axis.low, axis.high - 1.0);
    const double to =
        clamp(ceil(filter.centre + filter.support - 0.5) - 1.0, from, axis.high - 1.0);
    first = axis.inside(from);
    count = axis.inside(to) - first + 1;
    if (count == 1) return;
    const double total = filter.sum(from, to);
    // Distances are small numbers: from here on floats do, and a GPU has few units for doubles.
    const double left_edge = static_cast<double>(first);
    const double right_edge = static_cast<double>(first + count - 1);
    nearest = static_cast<float>(filter.distance(left_edge));
    slope = static_cast<float>(1.0 / (filter.support * total));
    peak = static_cast<float>(1.0 / total);
    // Pixels past an edge of the frame repeat it: their weights are the edge pixel's as well.
    left = from < left_edge ? static_cast<float>(filter.sum(from, left_edge) / total) : inner(0);
    right =
        to > right_edge ? static_cast<float>(filter.sum(right_edge, to) / total) : inner(count - 1);
  }

  STOR_HOST_DEVICE float inner(int64_t tap) const {
    const float weight = peak - slope * fabsf(nearest + static_cast<float>(tap));
    return weight > 0.0f ? weight : 0.0f;
  }
};

// The same with the weights in a table: room for max_taps(axis, antialias).
STOR_HOST_DEVICE Taps axis_taps(const ResampleAxis& axis, int64_t i, bool antialias,
                                float* weights) {
  const WeightedTaps taps(axis, i, antialias);
  for (int64_t tap = 0; tap < taps.count; ++tap) weights[tap] = taps.weight(tap);
  return taps;
}

// The source frames of output frame t at start + t * stride: the nearest, floor(x + 0.5), or the
// two around it. weights: room for 2.
STOR_HOST_DEVICE Taps frame_taps(const View& view, int64_t t, int64_t num_frames, bool linear,
                                 float* weights) {
  const double last = static_cast<double>(num_frames - 1);
  const double position =
      static_cast<double>(view.start) + static_cast<double>(t) * static_cast<double>(view.stride);
  weights[0] = 1.0f;
  if (!linear) return {static_cast<int64_t>(clamp(floor(position + 0.5), 0.0, last)), 1};
  const double inside = clamp(position, 0.0, last);
  const double below = floor(inside);
  if (below == inside) return {static_cast<int64_t>(below), 1};
  weights[1] = static_cast<float>(inside - below);
  weights[0] = 1.0f - weights[1];
  return {static_cast<int64_t>(below), 2};
}

// Where the resized pixel (row, column) lies in the output after the flip and the rotation:
// origin + row * per_row + column * per_column, counted in elements.
struct Orientation {
  int64_t origin, per_row, per_column;

  // height, width: of the output; stride_y, stride_x: of its rows and columns.
  STOR_HOST_DEVICE Orientation(const View& view, int64_t height, int64_t width, int64_t stride_y,
                               int64_t stride_x) {
    const int64_t bottom = (height - 1) * stride_y, right = (width - 1) * stride_x;
    switch (view.rotation) {  // torch.rot90(k): counter-clockwise
      case 0:
        origin = 0, per_row = stride_y, per_column = stride_x;
        break;
      case 1:  // the left edge becomes the bottom
        origin = bottom, per_row = stride_x, per_column = -stride_y;
        break;
      case 2:
        origin = bottom + right, per_row = -stride_y, per_column = -stride_x;
        break;
      default:  // the left edge becomes the top
        origin = right, per_row = -stride_x, per_column = stride_y;
        break;
    }
    if (view.flip) {
      const bool turned = view.rotation % 2 == 1;
      const int64_t resized_width = turned ? height : width;
      origin += (resized_width - 1) * per_column;
      per_column = -per_column;
    }
  }
};

}  // namespace stor
