// The vectorised steps of crop_resize on the CPU, each on one row; see row_kernels.inl.
//
// Rows of floats are scratch memory with room for kRowPadding floats beyond their end, which the
// steps may read and overwrite; sources and clips are never touched outside their elements.
#pragma once

#include <cstdint>

#include "../common/isa.h"
#include "pixel.h"

namespace stor {

// 16-bit floats as they lie in memory.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Index of an element type in the tables of functions below.
enum class Element { uint8, float32, float16, bfloat16 };
constexpr int kElements = 4;

// The rows of a source that blend into one.
struct RowStack {
  const void* const* rows;
  const float* weights;
  int64_t count;
};

constexpr int64_t kMaxLanes = 16;  // floats of the widest vector
constexpr int64_t kMaxWindow = 8;  // vectors from which permutations pick, at most
constexpr int64_t kRowPadding = (kMaxWindow + 1) * kMaxLanes;
constexpr int64_t kBandRows = 16;  // rows that are turned at a time

// The filter along x, in blocks of as many outputs as a vector has lanes; the last block ends with
// the last output and may overlap the one before. Tap k of a lane is row[base + k * step + index].
struct ColumnFilter {
  int64_t size;            // outputs
  int64_t taps;            // of every output, filled up with weights of 0
  int64_t step;            // floats from one pixel to the next
  int64_t window;          // vectors from base on that hold the taps; 0: too many
  const int64_t* bases;    // of each block
  const int32_t* indices;  // blocks x lanes
  const float* weights;    // blocks x taps x lanes
};

// Planes of floats, some runs of each, that go to a clip.
struct Runs {
  const float* planes;
  int64_t plane_stride, run_stride;
  int64_t channels, runs, count;
};

// The columns of all channels, `stride` apart, transformed, cast and stored, in whole vectors, to
// rows `out_stride` elements apart. Indexed by the filter's window.
struct Filters {
  void (*by_window[kMaxWindow + 1])(const ColumnFilter&, const float* row, int64_t stride,
                                    int64_t channels, const PixelTransform&, void* out,
                                    int64_t out_stride);
};

struct RowKernels {
  int64_t lanes;
  int64_t max_window;      // vectors from which picking is faster than gathering
  bool windows_hold_taps;  // all of a block's, not only the first

  // row[i] = sum of weights * elements.
  void (*blend[kElements])(const RowStack&, int64_t count, float* row);
  // Interleaved pixels into planes.
  void (*split[kMaxChannels + 1])(const float* row, int64_t pixels, float* planes,
                                  int64_t plane_stride);
  // Indexed by the clip's elements and by whether the row is finite: in a finite row a tap of
  // weight 0 may be any float but NaN and infinity; in another it does not count.
  Filters filter[kElements][2];
  // to[x][y] = from[y][x], kBandRows by kBandRows.
  void (*turn)(const float* from, int64_t from_stride, float* to);
  // Casts and stores; pixel i of a run goes to out + i, channels stride_c apart, or, interleaved,
  // to out + i * channels. Strides in elements.
  void (*put[kElements])(const Runs&, void* out, int64_t out_run_stride, int64_t stride_c,
                         bool interleaved);
};

const RowKernels& row_kernels(Isa isa);

}  // namespace stor
