// What happens to a resampled pixel before it is stored: scale to [0, 1], colour, mean/std, cast.
// Torch-free: CPU kernels, CUDA kernels and the emulator include this file unchanged.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/host_device.h"

namespace stor {

constexpr int kMaxChannels = 4;

// mean and std of a batch, and what full intensity is in its source and output (255 or 1), in the
// form in which pixels meet them: output = scale * source + shift; a colour's own shift times gain.
struct Normalisation {
  float scale[kMaxChannels] = {1, 1, 1, 1};
  float shift[kMaxChannels] = {0, 0, 0, 0};
  float gain[kMaxChannels] = {1, 1, 1, 1};

  // Once a batch, on the host: a GPU has few units for doubles.
  void set(int64_t channel, double mean, double std, double source_range, double output_range) {
    scale[channel] = static_cast<float>(output_range / source_range / std);
    shift[channel] = static_cast<float>(-mean * output_range / std);
    gain[channel] = static_cast<float>(output_range / std);
  }
};

// All of it in one affine map: output = matrix * source + offset.
struct PixelTransform {
  float matrix[kMaxChannels][kMaxChannels];
  float offset[kMaxChannels];
  bool mixes;  // channels; without, a NaN or infinity in one must not reach the others as 0 * NaN

  // color: the view's 3 x 4 matrix, row-major, or null.
  STOR_HOST_DEVICE PixelTransform(const Normalisation& norm, const float* color)
      : mixes(color != nullptr) {
    for (int out = 0; out < kMaxChannels; ++out) {
      const bool colored = color && out < 3;
      for (int in = 0; in < kMaxChannels; ++in) {
        const float mixed = colored && in < 3 ? color[4 * out + in] : static_cast<float>(out == in);
        matrix[out][in] = mixed * norm.scale[out];
      }
      offset[out] = norm.shift[out] + (colored ? color[4 * out + 3] * norm.gain[out] : 0.0f);
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
