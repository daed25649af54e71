// CUDA kernel of crop_resize and crop_resize_pair: one launch for a batch of any sizes.
//
// A block makes one tile of one frame of one view: up to 16 rows and 128 columns of the resized
// picture, before flip and rotation. It
//   1. computes the taps of the tile's rows and columns, once each, into shared memory;
//   2. blends source rows (and frames) into rows of floats in shared memory, each source byte of
//   the
//      tile's crop read from global memory a few words apart and by neighbouring lanes;
//   3. filters those rows along x, transforms the pixels and puts them into the tile, in shared
//   memory;
//   4. stores the tile where flip and rotation put it, as 16-byte words along the rows of the
//   output.
// Wide crops are filtered a few columns at a time, so that the rows of step 2 fit. Where not even
// one column fits (a crop some 2000 pixels wide for each of them), pixels are gathered one by one.
//
// Compiled with -fmad=false, as all of the project: the multiply-adds that matter are written as
// fmaf.
#pragma once

#include <cstring>

#include "../common/device.cuh"
#include "../views/tables.h"
#include "pixel.h"
#include "resample.h"
#include "video.h"

namespace stor {

constexpr int kCropThreads = 256;
constexpr int kCropBlocks = 3;  // on a multiprocessor: what the shared memory of sm_90 holds
constexpr int kTileRows = 16;
constexpr int kTileFloats = 6144;   // a tile: channels x rows x columns
constexpr int kArenaFloats = 8192;  // weights, then blended rows
constexpr int kMaxTileColumns = 128;

enum class SourceKind : int { kUint8, kFloat, kHalf, kBfloat16 };

// One of the two views of a pair, or the only one.
struct CropTarget {
  ViewTable views;
  const float* color;  // (N, 3, 4) or null
  void* clips;
};

struct CropJob {
  const Video* videos;
  int64_t num_videos;
  CropTarget targets[2];
  int num_targets;
  OverlapTable overlap;  // of the pairs; null where there is one target
  int64_t frames, height, width;
  int channels;
  bool antialias, linear_time;
  SourceKind source;
  Normalisation norm;
  bool channels_last;
  int tile_columns;         // at most kMaxTileColumns, and channels * kTileRows * of these fit
  int64_t tiles_per_frame;  // enough for either orientation
};

// Host side: the widest tiles that fit, of about one width, and how many a frame needs at most.
inline void set_tiles(CropJob& job) {
  const int64_t widest = smaller(kMaxTileColumns, kTileFloats / (kTileRows * job.channels) / 8 * 8);
  const int64_t longer = job.width > job.height ? job.width : job.height;
  const int64_t across = (longer + widest - 1) / widest;
  // A multiple of 8 columns: tiles then meet between whole 16-byte words.
  job.tile_columns = static_cast<int>(((longer + across - 1) / across + 7) / 8 * 8);
  const auto tiles = [&](int64_t rows, int64_t columns) {
    return ((rows + kTileRows - 1) / kTileRows) *
           ((columns + job.tile_columns - 1) / job.tile_columns);
  };
  const int64_t upright = tiles(job.height, job.width), turned = tiles(job.width, job.height);
  job.tiles_per_frame = upright > turned ? upright : turned;
}

inline int64_t num_blocks(const CropJob& job) {
  return job.num_targets * job.targets[0].views.size * job.frames * job.tiles_per_frame;
}

// What all threads of a block know about its tile.
struct Tile {
  int64_t row, column;  // of its first pixel, in the resized picture
  int rows, columns;
};

struct TapRange {
  int64_t first;
  int count;
};

// The block's shared memory. What all threads need to know is here once, not in each one's
// registers.
struct CropShared {
  float tile[kTileFloats];
  float arena[kArenaFloats];
  TapRange row_taps[kTileRows];
  TapRange column_taps[kMaxTileColumns];
  Video video;
  View view;
  Tile position;
  ResampleAxis rows, columns;
  PixelTransform transform;
  Taps frames;
  float frame_weights[2];
  bool usable;  // whether the view is
  bool exists;  // whether this tile is
};

__device__ __forceinline__ float load_value(const void* data, SourceKind kind, int64_t offset) {
  switch (kind) {
    case SourceKind::kUint8:
      return load_global(static_cast<const uint8_t*>(data) + offset);
    case SourceKind::kFloat:
      return load_global(static_cast<const float*>(data) + offset);
    case SourceKind::kHalf:
      return __half2float(load_global(static_cast<const __half*>(data) + offset));
    default:
      return __bfloat162float(load_global(static_cast<const __nv_bfloat16*>(data) + offset));
  }
}

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

// Steps 1 to 3 for one tile.
struct TileMaker {
  const CropJob& job;
  CropShared& shared;
  const Video& video = shared.video;
  const Tile& tile = shared.position;
  const ResampleAxis& rows = shared.rows;
  const ResampleAxis& columns = shared.columns;

  // One pixel of the tile, row-major in each channel.
  __device__ __forceinline__ void put(int row, int column, const float* pixel) const {
#pragma unroll
    for (int c = 0; c < kMaxChannels; ++c) {
      if (c < job.channels) {
        shared.tile[(c * tile.rows + row) * tile.columns + column] =
            shared.transform.apply(pixel, job.channels, c);
      }
    }
  }

  // Source columns that outputs begin .. begin + count - 1 read, widened to start at a multiple
  // of 4.
  __device__ __forceinline__ Interval span(int64_t begin, int64_t count) const {
    const double reach = job.antialias && columns.scale > 1.0 ? columns.scale : 1.0;
    const double first = floor(columns.centre(begin) - reach - 0.5);
    const double last = floor(columns.centre(begin + count - 1) + reach + 0.5);
    return {static_cast<double>(columns.inside(first) & ~int64_t{3}),
            static_cast<double>(columns.inside(last) + 1)};
  }

  // How many columns at a time leave room for at least one blended row; 0: not even one.
  __device__ __forceinline__ int chunk_columns(int64_t weights_for_rows, int64_t taps) const {
    const double reach = job.antialias && columns.scale > 1.0 ? columns.scale : 1.0;
    for (int count = tile.columns; count > 0; count = count > 1 ? (count + 1) / 2 : 0) {
      const double pixels = smaller(static_cast<double>(count) * columns.scale + 2.0 * reach + 8.0,
                                    static_cast<double>(video.width));
      const double floats = static_cast<double>(weights_for_rows + count * taps) +
                            (pixels + 4.0) * static_cast<double>(job.channels);
      if (floats <= kArenaFloats) return count;
    }
    return 0;
  }

  __device__ void make() const {
    const int64_t row_taps = max_taps(rows, job.antialias);
    const int64_t column_taps = max_taps(columns, job.antialias);
    const int64_t row_weights = (tile.rows * row_taps + 3) & ~int64_t{3};
    const int chunk = chunk_columns(row_weights, column_taps);
    if (chunk == 0) {
      gather();
      return;
    }
    for (int r = threadIdx.x; r < tile.rows; r += blockDim.x) {
      const Taps taps = axis_taps(rows, tile.row + r, job.antialias, shared.arena + r * row_taps);
      shared.row_taps[r] = {taps.first, static_cast<int>(taps.count)};
    }
    float* const column_weights = shared.arena + row_weights;
    for (int begin = 0; begin < tile.columns; begin += chunk) {
      const int count = tile.columns - begin < chunk ? tile.columns - begin : chunk;
      for (int c = threadIdx.x; c < count; c += blockDim.x) {
        const Taps taps = axis_taps(columns, tile.column + begin + c, job.antialias,
                                    column_weights + c * column_taps);
        shared.column_taps[c] = {taps.first, static_cast<int>(taps.count)};
      }
      const Interval source = span(tile.column + begin, count);
      const int64_t first_column = static_cast<int64_t>(source.begin);
      const int floats = static_cast<int>(source.length()) * job.channels;
      const int stride = (floats + 3) & ~3;
      float* const blended = column_weights + ((count * column_taps + 3) & ~int64_t{3});
      const int room = static_cast<int>((shared.arena + kArenaFloats - blended) / stride);
      const int rows_at_once = room < tile.rows ? room : tile.rows;
      __syncthreads();
      for (int row = 0; row < tile.rows; row += rows_at_once) {
        const int rows_now = tile.rows - row < rows_at_once ? tile.rows - row : rows_at_once;
        blend_rows(row, rows_now, static_cast<int>(row_taps), first_column, floats, stride,
                   blended);
        __syncthreads();
        filter_rows(row, rows_now, begin, count, static_cast<int>(column_taps), column_weights,
                    first_column, stride, blended);
        __syncthreads();
      }
    }
  }

  // Step 2: each thread blends four neighbouring values of a row.
  __device__ void blend_rows(int first_row, int count, int taps_per_row, int64_t first_column,
                             int floats, int stride, float* blended) const {
    const int groups = stride / 4;
    for (int item = threadIdx.x; item < count * groups; item += blockDim.x) {
      const int row = first_row + item / groups, value = item % groups * 4;
      const TapRange taps = shared.row_taps[row];
      const float* const weights = shared.arena + row * taps_per_row;
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int f = 0; f < shared.frames.count; ++f) {
        for (int tap = 0; tap < taps.count; ++tap) {
          const int64_t line = (shared.frames.first + f) * video.stride_t +
                               (taps.first + tap) * video.stride_y + first_column * video.stride_x;
          add_values(line, value, floats, shared.frame_weights[f] * weights[tap], sum);
        }
      }
      float4* const target =
          reinterpret_cast<float4*>(blended + (row - first_row) * stride + value);
      *target = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
  }

  // sum += weight * values value .. value + 3 of the interleaved pixels at `line`.
  __device__ __forceinline__ void add_values(int64_t line, int value, int floats, float weight,
                                             float* sum) const {
    const bool interleaved = video.stride_c == 1 && video.stride_x == job.channels;
    if (interleaved && job.source == SourceKind::kUint8) {
      const uint8_t* const bytes = static_cast<const uint8_t*>(video.data) + line + value;
      if (value + 3 < floats && (reinterpret_cast<uintptr_t>(bytes) & 3) == 0) {
        const uint32_t word = load_global(reinterpret_cast<const uint32_t*>(bytes));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[i] = fmaf(weight, static_cast<float>((word >> (8 * i)) & 255u), sum[i]);
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = value + i;
      if (at < floats) {
        const int64_t offset = interleaved ? line + at
                                           : line + at / job.channels * video.stride_x +
                                                 at % job.channels * video.stride_c;
        sum[i] = fmaf(weight, load_value(video.data, job.source, offset), sum[i]);
      }
    }
  }

  // Step 3: each thread filters and transforms one pixel.
  __device__ void filter_rows(int first_row, int count, int first, int outputs, int taps_per_column,
                              const float* column_weights, int64_t first_column, int stride,
                              const float* blended) const {
    for (int item = threadIdx.x; item < count * outputs; item += blockDim.x) {
      const int row = item / outputs, column = item % outputs;
      const TapRange taps = shared.column_taps[column];
      const float* const weights = column_weights + column * taps_per_column;
      const float* source =
          blended + row * stride + static_cast<int>(taps.first - first_column) * job.channels;
      float pixel[kMaxChannels] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int tap = 0; tap < taps.count; ++tap, source += job.channels) {
#pragma unroll
        for (int c = 0; c < kMaxChannels; ++c) {
          if (c < job.channels) pixel[c] = fmaf(weights[tap], source[c], pixel[c]);
        }
      }
      put(first_row + row, first + column, pixel);
    }
  }

  // Steps 1 to 3 without shared memory, for crops too wide for it.
  __device__ void gather() const {
    for (int item = threadIdx.x; item < tile.rows * tile.columns; item += blockDim.x) {
      const int row = item / tile.columns, column = item % tile.columns;
      const WeightedTaps down(rows, tile.row + row, job.antialias);
      const WeightedTaps along(columns, tile.column + column, job.antialias);
      float pixel[kMaxChannels] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int f = 0; f < shared.frames.count; ++f) {
        for (int64_t y = 0; y < down.count; ++y) {
          const float row_weight = shared.frame_weights[f] * down.weight(y);
          const int64_t line =
              (shared.frames.first + f) * video.stride_t + (down.first + y) * video.stride_y;
          for (int64_t x = 0; x < along.count; ++x) {
            const float weight = row_weight * along.weight(x);
            const int64_t offset = line + (along.first + x) * video.stride_x;
#pragma unroll
            for (int c = 0; c < kMaxChannels; ++c) {
              if (c < job.channels) {
                pixel[c] =
                    fmaf(weight, load_value(video.data, job.source, offset + c * video.stride_c),
                         pixel[c]);
              }
            }
          }
        }
      }
      put(row, column, pixel);
    }
  }
};

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
    const int planes = job.channels_last ? 1 : job.channels;
    const int step = job.channels_last ? job.channels : 1;  // elements from pixel to pixel
    const int run = width * step;
    const int slots = run / kPerWord + 2;
    for (int item = threadIdx.x; item < planes * height * slots; item += blockDim.x) {
      const int plane = item / (height * slots), y = item / slots % height, slot = item % slots;
      Output* const begin =
          frame + (plane * job.frames * job.height + top + y) * job.width * step + left * step;
      // Slot 0 is the word that the run begins in, wherever in it that may be.
      const int before = static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16 / sizeof(Output));
      const int from = slot * kPerWord - before;
      if (from >= run) continue;
      alignas(16) Output word[kPerWord];
#pragma unroll
      for (int i = 0; i < kPerWord; ++i) {
        const int at = from + i;
        if (at < 0 || at >= run) continue;
        const int x = at / step, channel = job.channels_last ? at % step : plane;
        const int row = static_cast<int>(turned ? (left + x - along.origin) * along.per_row
                                                : (top + y - down.origin) * down.per_row);
        const int column = static_cast<int>(turned ? (top + y - down.origin) * down.per_column
                                                   : (left + x - along.origin) * along.per_column);
        word[i] = convert_pixel<Output>(
            values[(channel * tile.rows + row - static_cast<int>(tile.row)) * tile.columns +
                   column - static_cast<int>(tile.column)]);
      }
      if (from >= 0 && from + kPerWord <= run) {
        uint4 packed;
        memcpy(&packed, word, sizeof(packed));
        store_global(reinterpret_cast<uint4*>(begin + from), packed);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kPerWord; ++i) {
        const int at = from + i;
        if (at >= 0 && at < run) store_global(begin + at, word[i]);
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

// The tile of the resized picture that a block makes; false if this orientation has fewer tiles.
__device__ __forceinline__ bool find_tile(const CropJob& job, const View& view, int64_t index,
                                          Tile& tile) {
  const bool turned = view.rotation % 2 == 1;
  const int64_t rows = turned ? job.width : job.height, columns = turned ? job.height : job.width;
  const int64_t across = (columns + job.tile_columns - 1) / job.tile_columns;
  tile.row = index / across * kTileRows;
  tile.column = index % across * job.tile_columns;
  if (tile.row >= rows) return false;
  tile.rows = static_cast<int>(rows - tile.row < kTileRows ? rows - tile.row : kTileRows);
  tile.columns = static_cast<int>(columns - tile.column < job.tile_columns ? columns - tile.column
                                                                           : job.tile_columns);
  return true;
}

template <typename Output>
__global__ void __launch_bounds__(kCropThreads, kCropBlocks)
    crop_resize_kernel(const __grid_constant__ CropJob job) {
  STOR_DYNAMIC_SHARED(CropShared, shared);
  int64_t index = blockIdx.x;
  const int64_t tile_index = index % job.tiles_per_frame;
  index /= job.tiles_per_frame;
  const int64_t t = index % job.frames;
  index /= job.frames;
  const int64_t num_views = job.targets[0].views.size;
  const int64_t n = index % num_views;
  const bool is_second = index >= num_views;
  const CropTarget& target = job.targets[is_second];

  if (threadIdx.x == 0) {
    View view = target.views[n];
    if (job.overlap.spatial && !is_second && t == 0 && tile_index == 0) {
      const View other = job.targets[1].views[n];
      job.overlap.set(n, overlap_or_nan(view, other, job.frames, job.num_videos));
    }
    shared->usable = find_fault(view, job.num_videos) == ViewFault::kNone;
    if (!shared->usable) view = {0, 0.0f, 1.0f, {0.0f, 0.0f, 1.0f, 1.0f}, false, 0};
    shared->view = view;
    shared->exists = find_tile(job, view, tile_index, shared->position);
    if (shared->usable) {
      const bool turned = view.rotation % 2 == 1;
      const Video video = job.videos[view.video];
      shared->video = video;
      shared->rows = {view.rows(), video.height, turned ? job.width : job.height};
      shared->columns = {view.columns(), video.width, turned ? job.height : job.width};
      shared->transform = {job.norm, target.color ? target.color + 12 * n : nullptr};
      shared->frames = frame_taps(view, t, video.frames, job.linear_time, shared->frame_weights);
    }
  }
  __syncthreads();
  if (!shared->exists) return;

  const Tile& tile = shared->position;
  if (shared->usable) {
    TileMaker{job, *shared}.make();
  } else {
    // Never plausible pixels: NaN, which becomes 0 in uint8.
    for (int i = threadIdx.x; i < job.channels * tile.rows * tile.columns; i += blockDim.x) {
      shared->tile[i] = not_a_number();
    }
  }
  __syncthreads();
  const int64_t picture = job.height * job.width;
  Output* const frame = static_cast<Output*>(target.clips) +
                        n * job.channels * job.frames * picture +
                        t * picture * (job.channels_last ? job.channels : 1);
  TileStore<Output>{job, tile, shared->view, shared->tile, frame}.store();
}

}  // namespace stor
