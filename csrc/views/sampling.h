// Two views of one video whose overlap rates are exactly the classes drawn (CSTP, arXiv
// 2112.08913).
//
// Everything that the network could use to guess a class without looking (box size, aspect, stride)
// is drawn before the class, from the range in which every class is feasible. Nothing is redrawn.
//
// The same bits everywhere: only +, -, *, /, sqrt and floor on doubles, which IEEE 754 rounds in
// one way. The file must be compiled without contraction into fused multiply-adds (g++
// -ffp-contract=off, nvcc -fmad=false).
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/host_device.h"
#include "philox.h"
#include "view.h"

namespace stor {

constexpr int kMaxClasses = 32;
constexpr int64_t kIgnoredClass = -100;  // what cross_entropy ignores by default

// The longest video, frame side and clip: float32 holds every whole position in them.
constexpr int64_t kMaxExtent = int64_t{1} << 24;

struct SamplingParams {
  int64_t clip_frames;
  uint64_t seed;
  uint32_t epoch;
  uint32_t draw;
  double scale_min, scale_max;   // box area over frame area
  double ratio_low, ratio_span;  // box width over height: low * span^[0, 1)
  double strides[kMaxClasses];
  double rates[kMaxClasses];
  int num_strides, num_rates;
  double lowest_rate;
  double flip;  // probability
  bool rotate;
};

struct VideoShape {
  int64_t frames, height, width;
  STOR_HOST_DEVICE bool valid() const {
    return frames >= 1 && frames <= kMaxExtent && height >= 1 && height <= kMaxExtent &&
           width >= 1 && width <= kMaxExtent;
  }
};

struct ViewPair {
  View first, second;
  int64_t spatial_class, temporal_class, playback_class;
  int64_t rotation_class[2];
};

// The 16 random words of one pair. The order is part of the reproducible format: only ever append.
class PairDraws {
 public:
  enum Name {
    kSpatialClass,
    kTemporalClass,
    kStride,
    kRatio,
    kScale,
    kShift,
    kDirections,
    kLeft,
    kTop,
    kStart,
    kShortShift,
    kRotationFirst,
    kRotationSecond,
    kFlipFirst,
    kFlipSecond,
    kSpare,
  };

  STOR_HOST_DEVICE PairDraws(const SamplingParams& params, uint64_t key) {
    for (uint32_t block = 0; block < 4; ++block) {
      const PhiloxBlock words = philox4x32_10(
          {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), params.epoch,
            params.draw * 4 + block}},
          static_cast<uint32_t>(params.seed), static_cast<uint32_t>(params.seed >> 32));
      for (int lane = 0; lane < 4; ++lane) word_[4 * block + lane] = words.word[lane];
    }
  }

  STOR_HOST_DEVICE uint32_t word(Name name) const { return word_[name]; }
  // Uniform in [0, 1).
  STOR_HOST_DEVICE double uniform(Name name) const { return word_[name] * 0x1p-32; }
  // Uniform over 0 .. count - 1; count is at most 2^32.
  STOR_HOST_DEVICE int64_t below(Name name, int64_t count) const {
    return static_cast<int64_t>((word_[name] * static_cast<uint64_t>(count)) >> 32);
  }
  STOR_HOST_DEVICE bool direction(int bit) const { return (word_[kDirections] >> bit) & 1u; }

 private:
  uint32_t word_[16];
};

STOR_HOST_DEVICE double smaller(double a, double b) { return a < b ? a : b; }
STOR_HOST_DEVICE double larger(double a, double b) { return a > b ? a : b; }

// Sizes and positions along an axis are multiples of this many pixels, a power of two: float32
// holds them exactly, so both boxes have the very same size and class 1.0 is measured as exactly 1.
STOR_HOST_DEVICE double pixel_grid(double extent) {
  double grid = 1.0 / 1024.0;
  while (extent > grid * kMaxExtent) grid *= 2.0;
  return grid;
}
STOR_HOST_DEVICE double floor_to(double grid, double x) { return floor(x / grid) * grid; }

// base^(fraction / 2^32), bit by bit: the exp and log of two maths libraries differ in the last
// bit.
STOR_HOST_DEVICE double portable_power(double base, uint32_t fraction) {
  double power = 1.0;
  for (int bit = 31; bit >= 0; --bit) {
    base = sqrt(base);
    if ((fraction >> bit) & 1u) power *= base;
  }
  return power;
}

// The largest box area, as a fraction of the frame, from which two boxes inside the frame can still
// be shifted apart to the lowest rate. With p = w / W, q = h / H a box can move by at most 1 / p -
// 1 of itself, so the least overlap is (2 - 1 / p)(2 - 1 / q); with p / q given and t = 1 / sqrt(p
// q) that is t^2 - 2 m t + 4, m = sqrt(p / q) + sqrt(q / p). Neither side may exceed the frame.
STOR_HOST_DEVICE double largest_feasible_scale(double p_over_q, double lowest_rate) {
  const double root = sqrt(p_over_q);
  const double inverse = 1.0 / root;
  const double m = root + inverse;
  const double apart = m - sqrt(larger(m * m - 4.0 + lowest_rate, 0.0));
  const double t = larger(apart, larger(root, inverse));
  return 1.0 / (t * t);
}

struct Shift {
  double along, across;  // of the drawn axis and of the other one, as fractions of the box
};

// Draws (a, b) with (1 - a)(1 - b) = rate, a <= max_along, b <= max_across: a uniform in its
// feasible range.
STOR_HOST_DEVICE Shift draw_shift(double rate, double max_along, double max_across,
                                  double uniform) {
  const double high = smaller(max_along, 1.0 - rate);
  const double low =
      smaller(max_across < 1.0 ? larger(1.0 - rate / (1.0 - max_across), 0.0) : 0.0, high);
  const double along = low + uniform * (high - low);
  const double across = along < 1.0 ? 1.0 - rate / (1.0 - along) : 0.0;
  return {along, smaller(larger(across, 0.0), max_across)};
}

// One axis of both boxes: `size` long, `shift` apart (rounded to the grid), anywhere inside the
// frame.
STOR_HOST_DEVICE void place(double extent, double size, double shift, bool swap, double uniform,
                            int axis, ViewPair& pair) {
  const double grid = pixel_grid(extent);
  shift = smaller(floor_to(grid, shift + grid / 2), extent - size);
  const double lower = floor_to(grid, uniform * (extent - size - shift));
  const double first = swap ? lower + shift : lower;
  const double second = swap ? lower : lower + shift;
  pair.first.box[axis] = static_cast<float>(first);
  pair.first.box[axis + 2] = static_cast<float>(first + size);
  pair.second.box[axis] = static_cast<float>(second);
  pair.second.box[axis + 2] = static_cast<float>(second + size);
}

// `part` of the frame's side, down to the grid but never nothing.
STOR_HOST_DEVICE double box_side(double extent, double part) {
  const double grid = pixel_grid(extent);
  return larger(floor_to(grid, smaller(extent * part, extent)), grid);
}

STOR_HOST_DEVICE void draw_boxes(const SamplingParams& params, const VideoShape& shape,
                                 const PairDraws& draws, ViewPair& pair) {
  const double frame_width = static_cast<double>(shape.width);
  const double frame_height = static_cast<double>(shape.height);

  const double ratio =
      params.ratio_low * portable_power(params.ratio_span, draws.word(PairDraws::kRatio));
  const double p_over_q = ratio * frame_height / frame_width;
  const double feasible = largest_feasible_scale(p_over_q, params.lowest_rate);
  const double scale_low = smaller(params.scale_min, feasible);
  const double scale_high = smaller(params.scale_max, feasible);
  const double scale = scale_low + draws.uniform(PairDraws::kScale) * (scale_high - scale_low);
  const double width = box_side(frame_width, sqrt(scale * p_over_q));
  const double height = box_side(frame_height, sqrt(scale / p_over_q));

  pair.spatial_class = draws.below(PairDraws::kSpatialClass, params.num_rates);
  const double rate = params.rates[pair.spatial_class];
  const double max_x = smaller((frame_width - width) / width, 1.0);
  const double max_y = smaller((frame_height - height) / height, 1.0);
  // Either axis may be the one that is drawn freely, so that neither is preferred.
  const bool draw_x = draws.direction(0);
  const Shift shift = draw_shift(rate, draw_x ? max_x : max_y, draw_x ? max_y : max_x,
                                 draws.uniform(PairDraws::kShift));
  const double shift_x = (draw_x ? shift.along : shift.across) * width;
  const double shift_y = (draw_x ? shift.across : shift.along) * height;
  place(frame_width, width, shift_x, draws.direction(1), draws.uniform(PairDraws::kLeft), 0, pair);
  place(frame_height, height, shift_y, draws.direction(2), draws.uniform(PairDraws::kTop), 1, pair);
}

// Strides under which a span of `steps` frames lies inside the video: how many, and which one is
// n-th.
STOR_HOST_DEVICE int count_strides(const SamplingParams& params, int64_t steps, int64_t frames) {
  int count = 0;
  for (int i = 0; i < params.num_strides; ++i) count += steps * params.strides[i] <= frames;
  return count;
}

STOR_HOST_DEVICE int64_t nth_stride(const SamplingParams& params, int64_t steps, int64_t frames,
                                    int64_t n) {
  int64_t i = 0;
  for (;; ++i) {
    if (steps * params.strides[i] <= frames && n-- == 0) return i;
  }
}

STOR_HOST_DEVICE int64_t smallest_stride(const SamplingParams& params) {
  int64_t smallest = 0;
  for (int i = 1; i < params.num_strides; ++i) {
    if (params.strides[i] < params.strides[smallest]) smallest = i;
  }
  return smallest;
}

STOR_HOST_DEVICE int64_t shift_in_steps(double rate, int64_t clip_frames) {
  return static_cast<int64_t>(floor((1.0 - rate) * static_cast<double>(clip_frames) + 0.5));
}

STOR_HOST_DEVICE void draw_times(const SamplingParams& params, const VideoShape& shape,
                                 const PairDraws& draws, ViewPair& pair) {
  const int64_t clip = params.clip_frames;
  const int64_t grid_steps = clip + shift_in_steps(params.lowest_rate, clip);
  int64_t shift = 0;
  if (const int count = count_strides(params, grid_steps, shape.frames); count > 0) {
    pair.playback_class =
        nth_stride(params, grid_steps, shape.frames, draws.below(PairDraws::kStride, count));
    pair.temporal_class = draws.below(PairDraws::kTemporalClass, params.num_rates);
    shift = shift_in_steps(params.rates[pair.temporal_class], clip);
  } else {
    // Too short for its class grid: the label is ignored, the views stay valid and on one frame
    // lattice.
    const int fitting = count_strides(params, clip, shape.frames);
    pair.playback_class = fitting > 0 ? nth_stride(params, clip, shape.frames,
                                                   draws.below(PairDraws::kStride, fitting))
                                      : smallest_stride(params);
    pair.temporal_class = kIgnoredClass;
    const double spare = shape.frames / params.strides[pair.playback_class] - clip;
    if (spare >= 1.0) {
      shift = draws.below(PairDraws::kShortShift, static_cast<int64_t>(spare) + 1);
    }
  }
  const double stride = params.strides[pair.playback_class];
  const double room = larger(shape.frames - (clip + shift) * stride, 0.0);
  const double early =
      static_cast<double>(draws.below(PairDraws::kStart, static_cast<int64_t>(room) + 1));
  const double late = early + shift * stride;
  const bool swap = draws.direction(3);
  pair.first.start = static_cast<float>(swap ? late : early);
  pair.second.start = static_cast<float>(swap ? early : late);
  pair.first.stride = pair.second.stride = static_cast<float>(stride);
}

STOR_HOST_DEVICE void draw_orientation(const SamplingParams& params, const PairDraws& draws,
                                       PairDraws::Name rotation, PairDraws::Name flip, View& view,
                                       int64_t& rotation_class) {
  rotation_class = params.rotate ? draws.below(rotation, 4) : 0;
  view.rotation = static_cast<uint8_t>(rotation_class);
  view.flip = draws.uniform(flip) < params.flip;
}

STOR_HOST_DEVICE ViewPair sample_view_pair(const SamplingParams& params, int64_t video,
                                           const VideoShape& shape, uint64_t key) {
  const PairDraws draws(params, key);
  ViewPair pair;
  pair.first.video = pair.second.video = video;
  draw_boxes(params, shape, draws, pair);
  draw_times(params, shape, draws, pair);
  draw_orientation(params, draws, PairDraws::kRotationFirst, PairDraws::kFlipFirst, pair.first,
                   pair.rotation_class[0]);
  draw_orientation(params, draws, PairDraws::kRotationSecond, PairDraws::kFlipSecond, pair.second,
                   pair.rotation_class[1]);
  return pair;
}

}  // namespace stor
