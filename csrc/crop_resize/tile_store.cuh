// Step 4 of the crop_resize kernel: from a tile of the resized picture to the output.
#pragma once

#include <cstring>

#include "crop_job.cuh"

namespace stor {

template <typename Output>
__device__ __forceinline__ Output convert_pixel(float value);
template <>
__device__ __forceinline__ float convert_pixel<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half convert_pixel<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 convert_pixel<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ uint8_t convert_pixel<uint8_t>(float value) {
  return to_uint8(value);
}

// Step 4. In the output the tile is a rectangle again, and each of its rows a run of neighbours in
// memory: whole 16-byte words of it are stored as such.
template <typename Output>
struct TileStore {
  const CropJob& job;
  const Tile& tile;
  const View& view;
  const float* values;
  Output* frame;  // of this view and frame: element (channel 0, row 0, column 0)

  static constexpr int kPerWord = 16 / static_cast<int>(sizeof(Output));

  __device__ void store() const {
    const bool turned = view.rotation % 2 == 1;
    // Output coordinates of a resized pixel: the orientation, once for y and once for x.
    const Orientation down(view, job.height, job.width, 1, 0);
    const Orientation along(view, job.height, job.width, 0, 1);
    const int height = turned ? tile.columns : tile.rows;
    const int width = turned ? tile.rows : tile.columns;
    const int64_t top = lowest(down), left = lowest(along);
    // The tile's value for (top, left), and how far to the next one down and along.
    const int y_sign = static_cast<int>(turned ? down.per_column : down.per_row);
    const int x_sign = static_cast<int>(turned ? along.per_row : along.per_column);
    const int y_step = turned ? y_sign : y_sign * tile.columns;
    const int x_step = turned ? x_sign * tile.columns : x_sign;
    const int corner =
        (y_sign < 0 ? (height - 1) * -y_step : 0) + (x_sign < 0 ? (width - 1) * -x_step : 0);
    const int plane_size = tile.rows * tile.columns;
    if (job.channels_last) {
      runs(1, height, width, job.channels, corner, y_step, x_step, plane_size, top, left);
    } else {
      runs(job.channels, height, width, 1, corner, y_step, x_step, plane_size, top, left);
    }
  }

  // Rows of `width` pixels of `step` neighbouring channels each.
  __device__ __forceinline__ void runs(int planes, int height, int width, int step, int corner,
                                       int y_step, int x_step, int plane_size, int64_t top,
                                       int64_t left) const {
    const int run = width * step;
    const int slots = run / kPerWord + 2;
    for (int item = threadIdx.x; item < planes * height * slots; item += blockDim.x) {
      const int line = item / slots, slot = item - line * slots;
      const int plane = line / height, y = line - plane * height;
      Output* const begin =
          frame + (plane * job.frames * job.height + top + y) * job.width * step + left * step;
      // Slot 0 is the word that the run begins in, wherever in it that may be.
      const int before = static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16 / sizeof(Output));
      const int from = slot * kPerWord - before;
      if (from >= run) continue;
      // Where the values of this word are in the tile; channels vary fastest.
      const float* const row = values + plane * plane_size + corner + y * y_step;
      if (from >= 0 && from + kPerWord <= run) {
        int x = step == 1 ? from : from / step, channel = step == 1 ? 0 : from - x * step;
        const float* value = row + channel * plane_size + x * x_step;
        alignas(16) Output word[kPerWord];
#pragma unroll
        for (int i = 0; i < kPerWord; ++i) {
          word[i] = convert_pixel<Output>(*value);
          if (step == 1) {
            value += x_step;
          } else if (++channel == step) {
            channel = 0;
            value += x_step - (step - 1) * plane_size;
          } else {
            value += plane_size;
          }
        }
        uint4 packed;
        memcpy(&packed, word, sizeof(packed));
        store_global(reinterpret_cast<uint4*>(begin + from), packed);
        continue;
      }
      const int last = from + kPerWord < run ? from + kPerWord : run;
#pragma unroll 1
      for (int at = from > 0 ? from : 0; at < last; ++at) {
        const int x = at / step, channel = at - x * step;
        store_global(begin + at, convert_pixel<Output>(row[channel * plane_size + x * x_step]));
      }
    }
  }

  // The least coordinate of the tile's pixels.
  __device__ __forceinline__ int64_t lowest(const Orientation& axis) const {
    const int64_t first = axis.origin + tile.row * axis.per_row + tile.column * axis.per_column;
    const int64_t last =
        first + (tile.rows - 1) * axis.per_row + (tile.columns - 1) * axis.per_column;
    return first < last ? first : last;
  }
};

}  // namespace stor
