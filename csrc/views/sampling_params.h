// Between the options of the sample_view_pairs op and the kernels' struct, for every device.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "../common/check.h"
#include "sampling.h"

namespace stor {

inline SamplingParams make_sampling_params(int64_t clip_frames, int64_t seed, int64_t epoch,
                                           int64_t draw, const std::vector<double>& scale,
                                           const std::vector<double>& ratio,
                                           const std::vector<double>& strides,
                                           const std::vector<double>& rates, bool rotate,
                                           double flip) {
  static constexpr const char* kOp = "sample_view_pairs";
  STOR_CHECK(clip_frames >= 1 && clip_frames <= kMaxExtent, kOp, ": clip_frames: expected 1 to ",
             kMaxExtent, ", got ", clip_frames);
  STOR_CHECK(epoch >= 0 && epoch <= std::numeric_limits<uint32_t>::max(), kOp,
             ": epoch: expected 0 to 2^32 - 1, got ", epoch);
  STOR_CHECK(draw >= 0 && draw < (int64_t{1} << 30), kOp, ": draw: expected 0 to 2^30 - 1, got ",
             draw);
  STOR_CHECK(scale.size() == 2, kOp, ": scale: expected (low, high), got ", scale.size(),
             " numbers");
  STOR_CHECK(ratio.size() == 2, kOp, ": ratio: expected (low, high), got ", ratio.size(),
             " numbers");
  const auto count_ok = [](size_t count) { return count >= 1 && count <= kMaxClasses; };
  STOR_CHECK(count_ok(strides.size()), kOp, ": strides: expected 1 to ", kMaxClasses,
             " numbers, got ", strides.size());
  STOR_CHECK(count_ok(rates.size()), kOp, ": rates: expected 1 to ", kMaxClasses, " numbers, got ",
             rates.size());
  // Also refuses NaN. The bounds keep every number below within what its type holds.
  const auto check_range = [](const char* argument, const std::vector<double>& values, double low,
                              double high) {
    for (const double value : values) {
      STOR_CHECK(value >= low && value <= high, kOp, ": ", argument, ": expected numbers in [", low,
                 ", ", high, "], got ", value);
    }
  };
  check_range("scale", scale, 1e-6, 1.0);
  check_range("ratio", ratio, 1e-6, 1e6);
  check_range("strides", strides, 1e-6, 1e6);
  check_range("rates", rates, 0.0, 1.0);
  check_range("flip", {flip}, 0.0, 1.0);
  STOR_CHECK(scale[0] <= scale[1], kOp, ": scale: expected (low, high) in order");
  STOR_CHECK(ratio[0] <= ratio[1], kOp, ": ratio: expected (low, high) in order");

  SamplingParams params{};
  params.clip_frames = clip_frames;
  params.seed = static_cast<uint64_t>(seed);
  params.epoch = static_cast<uint32_t>(epoch);
  params.draw = static_cast<uint32_t>(draw);
  params.scale_min = scale[0];
  params.scale_max = scale[1];
  params.ratio_low = ratio[0];
  params.ratio_span = ratio[1] / ratio[0];
  std::copy(strides.begin(), strides.end(), params.strides);
  std::copy(rates.begin(), rates.end(), params.rates);
  params.num_strides = static_cast<int>(strides.size());
  params.num_rates = static_cast<int>(rates.size());
  params.lowest_rate = *std::min_element(rates.begin(), rates.end());
  params.flip = flip;
  params.rotate = rotate;
  return params;
}

}  // namespace stor
