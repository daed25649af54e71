// What a launch of the crop_resize kernel is told, how it is cut into tiles, what a block shares.
#pragma once

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

}  // namespace stor
