// CUDA kernel of crop_resize and crop_resize_pair: one launch for a batch of any sizes.
//
// A block makes one tile of one frame of one view: up to 16 rows and 128 columns of the resized
// picture, before flip and rotation. In this order, it
//   1. computes the taps of the tile's rows and columns, once each, into shared memory;
//   2. blends source rows (and frames) into rows of floats in shared memory: each thread reads
//      words of four bytes, neighbours next to each other;
//   3. filters those rows along x and transforms the pixels, into the tile in shared memory;
//   4. stores the tile where flip and rotation put it, as 16-byte words along the output's rows.
// Wide crops are filtered a few columns at a time, so that the rows of step 2 fit. Where not even
// one column fits (a crop some 2000 pixels wide for each of them), pixels are gathered one by one.
// DESIGN.md beside this file counts bytes and operations.
//
// Compiled with -fmad=false, as all CUDA code of the project, so that sampled views have the bits
// of the CPU's; the multiply-adds that matter are written as fmaf.
#pragma once

#include "tile_maker.cuh"
#include "tile_store.cuh"

namespace stor {

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
