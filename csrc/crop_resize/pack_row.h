// Copies pixels that lie anyhow into a dense row of interleaved channels: CPU only.
#pragma once

#include <cstdint>

#include "video.h"

namespace stor {

template <typename Bits, int kChannels>
void pack_pixels(const Bits* from, const Video& video, int64_t pixels, Bits* to) {
  for (int64_t x = 0; x < pixels; ++x, to += kChannels) {
    for (int c = 0; c < kChannels; ++c) to[c] = from[x * video.stride_x + c * video.stride_c];
  }
}

// Bits: an integer as wide as the video's elements.
template <typename Bits>
void pack_row(const void* from, const Video& video, int64_t pixels, int64_t channels, void* to) {
  const Bits* const source = static_cast<const Bits*>(from);
  Bits* const row = static_cast<Bits*>(to);
  switch (channels) {
    case 1:
      return pack_pixels<Bits, 1>(source, video, pixels, row);
    case 2:
      return pack_pixels<Bits, 2>(source, video, pixels, row);
    case 3:
      return pack_pixels<Bits, 3>(source, video, pixels, row);
    default:
      return pack_pixels<Bits, 4>(source, video, pixels, row);
  }
}

}  // namespace stor
