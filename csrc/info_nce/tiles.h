// Computes tiles of logits on torch's thread pool, in the order of a schedule.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "problem.h"
#include "schedule.h"

namespace stor {

// Scratch memory of one thread, reused from tile to tile.
template <typename Scalar>
struct alignas(64) Workspace {
  Scalar tile[kMaxBlock * kTileStride];
  ExpSums<Scalar> row_sums, column_sums;
  SoftmaxGradient<Scalar> row_gradient, column_gradient;
  struct Addition {
    int64_t position;  // in the tile
    Scalar value;
  };
  std::vector<Addition> additions;
};

// As many workspaces as threads ask for at a time.
template <typename Scalar>
class WorkspacePool {
 public:
  std::unique_ptr<Workspace<Scalar>> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<Workspace<Scalar>>();
    std::unique_ptr<Workspace<Scalar>> workspace = std::move(free_.back());
    free_.pop_back();
    return workspace;
  }
  void give_back(std::unique_ptr<Workspace<Scalar>> workspace) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace<Scalar>>> free_;
};

// Fills the tile with query . key, and with -infinity where a query meets itself and beyond the
// last column, up to whole vectors.
template <typename Scalar>
void compute_logits(const InfoNceProblem<Scalar>& problem, TileIndex index, Scalar* tile) {
  constexpr Scalar kNone = -std::numeric_limits<Scalar>::infinity();
  const int64_t rows = problem.query.blocks[index.query_block].size;
  const int64_t columns = problem.key().blocks[index.key_block].size;
  multiply(problem.query.block(index.query_block), problem.key().transposed_block(index.key_block),
           matrix(tile, rows, columns, kTileStride));
  const int64_t end = (columns + kPadding - 1) / kPadding * kPadding;
  for (int64_t i = 0; i < rows; ++i) {
    std::fill(tile + i * kTileStride + columns, tile + i * kTileStride + end, kNone);
  }
  if (problem.against_itself() && index.query_block == index.key_block) {
    for (int64_t i = 0; i < rows; ++i) tile[i * kTileStride + i] = kNone;
  }
}

// Calls work(index, workspace), with the tile's logits computed, for every tile of the schedule.
template <typename Scalar, typename Schedule, typename Work>
void for_each_tile(const InfoNceProblem<Scalar>& problem, const Schedule& schedule,
                   const Work& work) {
  WorkspacePool<Scalar> pool;
  for (int64_t round = 0; round < schedule.rounds(); ++round) {
    torch::stable::parallel_for(0, schedule.slots(round), 1, [&](int64_t begin, int64_t end) {
      std::unique_ptr<Workspace<Scalar>> workspace = pool.take();
      for (int64_t slot = begin; slot < end; ++slot) {
        const TileIndex index = schedule.tile(round, slot);
        compute_logits(problem, index, workspace->tile);
        work(index, *workspace);
      }
      pool.give_back(std::move(workspace));
    });
  }
}

}  // namespace stor
