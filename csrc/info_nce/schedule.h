// In which order the tiles of the logits are visited.
//
// Rounds follow one another; the tiles of one round share no block of queries or keys, so threads
// may add to the rows of both sides without locks, and always in the same order: results have the
// same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace stor {

struct TileIndex {
  int64_t query_block;
  int64_t key_block;
};

// Every pair of a query block and a key block once. In round r, block i of the shorter side meets
// block i + r of the longer one.
class RectangleSchedule {
 public:
  RectangleSchedule(int64_t query_blocks, int64_t key_blocks)
      : query_blocks_(query_blocks), key_blocks_(key_blocks) {}

  int64_t rounds() const { return std::max(query_blocks_, key_blocks_); }
  int64_t slots(int64_t /*round*/) const { return std::min(query_blocks_, key_blocks_); }
  TileIndex tile(int64_t round, int64_t slot) const {
    const int64_t other = (slot + round) % rounds();
    return query_blocks_ <= key_blocks_ ? TileIndex{slot, other} : TileIndex{other, slot};
  }

 private:
  int64_t query_blocks_, key_blocks_;
};

// Every unordered pair of blocks once, and each with itself: a round-robin tournament. Round 0 is
// the diagonal. After it the last of an even number of teams keeps its place while the others
// rotate; with an odd number of blocks that team does not exist and its opponent rests.
class TournamentSchedule {
 public:
  explicit TournamentSchedule(int64_t blocks)
      : blocks_(blocks), rotating_(blocks % 2 == 0 ? blocks - 1 : blocks) {}

  int64_t rounds() const { return blocks_ > 1 ? 1 + rotating_ : blocks_; }
  int64_t slots(int64_t round) const { return round == 0 ? blocks_ : blocks_ / 2; }
  TileIndex tile(int64_t round, int64_t slot) const {
    if (round == 0) return {slot, slot};
    const int64_t centre = round - 1;
    const int64_t distance = rotating_ == blocks_ ? slot + 1 : slot;
    if (distance == 0) return {centre, rotating_};
    return {(centre + distance) % rotating_, (centre - distance + rotating_) % rotating_};
  }

 private:
  int64_t blocks_;
  int64_t rotating_;  // teams that move from round to round; an odd number
};

}  // namespace stor
