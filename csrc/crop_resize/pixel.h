// What happens to a resampled pixel before it is stored: scale to [0, 1], colour, mean/std, cast.
// Torch-free: CPU kernels, CUDA kernels and the emulator include this file unchanged.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/host_device.h"

namespace stor {

constexpr int kMaxChannels = 4;

// mean and std of a batch, and what full intensity is in its source and in its output: 255 or 1.
struct Normalisation {
  float mean[kMaxChannels] = {0, 0, 0, 0};
  float std[kMaxChannels] = {1, 1, 1, 1};
  float source_range = 1;
  float output_range = 1;
};

// All of it in one affine map: output = matrix * source + offset.
struct PixelTransform {
  float matrix[kMaxChannels][kMaxChannels];
  float offset[kMaxChannels];
  bool mixes;  // channels; without, a NaN or infinity in one must not reach the others as 0 * NaN

  // color: the view's 3 x 4 matrix, row-major, or null.
  STOR_HOST_DEVICE PixelTransform(const Normalisation& norm, const float* color)
      : mixes(color != nullptr) {
    const double range = static_cast<double>(norm.output_range) / norm.source_range;
    for (int out = 0; out < kMaxChannels; ++out) {
      for (int in = 0; in < kMaxChannels; ++in) {
        const double mixed = color && out < 3 && in < 3 ? color[4 * out + in] : out == in;
        matrix[out][in] = static_cast<float>(mixed * range / norm.std[out]);
      }
      const double shift = color && out < 3 ? color[4 * out + 3] : 0.0;
      offset[out] =
          static_cast<float>((shift - norm.mean[out]) * norm.output_range / norm.std[out]);
    }
  }

  STOR_HOST_DEVICE float apply(const float* pixel, int channels, int out) const {
    if (!mixes) return offset[out] + matrix[out][out] * pixel[out];
    float value = offset[out];
    for (int in = 0; in < kMaxChannels; ++in) {  // a constant bound keeps `pixel` in registers
      if (in < channels) value += matrix[out][in] * pixel[in];
    }
    return value;
  }
};

// Rounds to the nearest, ties to even; NaN becomes 0.
STOR_HOST_DEVICE uint8_t to_uint8(float value) {
  return value > 0.0f ? static_cast<uint8_t>(value < 255.0f ? rintf(value) : 255.0f) : uint8_t{0};
}

}  // namespace stor
