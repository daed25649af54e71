// Steps 1 to 3 of the crop_resize kernel: from source pixels to a tile of the resized picture.
#pragma once

#include "crop_job.cuh"

namespace stor {

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

  // How many columns at a time leave room for at least one blended row; 0: not even one. A span is
  // up to 7 pixels longer than its outputs and their reach, and both parts of the arena are rounded
  // up by up to 3 floats.
  __device__ __forceinline__ int chunk_columns(int64_t weights_for_rows, int64_t taps) const {
    const double reach = job.antialias && columns.scale > 1.0 ? columns.scale : 1.0;
    for (int count = tile.columns; count > 0; count = count > 1 ? (count + 1) / 2 : 0) {
      const double pixels = smaller(static_cast<double>(count) * columns.scale + 2.0 * reach + 8.0,
                                    static_cast<double>(video.width));
      const double floats = static_cast<double>(weights_for_rows + count * taps) +
                            pixels * static_cast<double>(job.channels) + 8.0;
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
    if (job.source == SourceKind::kUint8 && video.stride_c == 1 && video.stride_x == job.channels) {
      blend_bytes(first_row, count, taps_per_row, first_column, floats, stride, blended);
      return;
    }
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

  // Step 2 of interleaved bytes: what does not change from tap to tap stays outside the loop.
  __device__ void blend_bytes(int first_row, int count, int taps_per_row, int64_t first_column,
                              int floats, int stride, float* blended) const {
    const int groups = stride / 4;
    const int64_t stride_y = video.stride_y;
    for (int item = threadIdx.x; item < count * groups; item += blockDim.x) {
      const int row = item / groups, value = (item - row * groups) * 4;
      const TapRange taps = shared.row_taps[first_row + row];
      const float* const weights = shared.arena + (first_row + row) * taps_per_row;
      const int valid = floats - value < 4 ? floats - value : 4;
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int f = 0; f < shared.frames.count; ++f) {
        const float frame_weight = shared.frame_weights[f];
        const uint8_t* bytes = static_cast<const uint8_t*>(video.data) +
                               (shared.frames.first + f) * video.stride_t + taps.first * stride_y +
                               first_column * job.channels + value;
#pragma unroll 1
        for (int tap = 0; tap < taps.count; ++tap, bytes += stride_y) {
          const float weight = frame_weight * weights[tap];
          const uint32_t word = load_bytes(bytes, value, valid, floats);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[i] = fmaf(weight, static_cast<float>((word >> (8 * i)) & 255u), sum[i]);
          }
        }
      }
      float4* const target = reinterpret_cast<float4*>(blended + row * stride + value);
      *target = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
  }

  // `valid` bytes as one word, 0 in the rest of it. Rows of odd length begin anywhere within one:
  // then two words that lie inside the row hold the bytes.
  __device__ __forceinline__ uint32_t load_bytes(const uint8_t* bytes, int value, int valid,
                                                 int floats) const {
    const int late = static_cast<int>(reinterpret_cast<uintptr_t>(bytes) & 3);
    if (late == 0 && valid == 4) return load_global(reinterpret_cast<const uint32_t*>(bytes));
    if (value >= late && value - late + 8 <= floats) {
      const uint32_t* const words = reinterpret_cast<const uint32_t*>(bytes - late);
      const uint64_t both =
          (static_cast<uint64_t>(load_global(words + 1)) << 32) | load_global(words);
      return static_cast<uint32_t>(both >> (8 * late));
    }
    uint32_t word = 0;
#pragma unroll 1
    for (int i = 0; i < valid; ++i)
      word |= static_cast<uint32_t>(load_global(bytes + i)) << (8 * i);
    return word;
  }

  // sum += weight * values value .. value + 3 of the interleaved pixels at `line`.
  __device__ __forceinline__ void add_values(int64_t line, int value, int floats, float weight,
                                             float* sum) const {
    const bool interleaved = video.stride_c == 1 && video.stride_x == job.channels;
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

}  // namespace stor
