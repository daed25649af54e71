// The positives of a tile: listed by index or found by equal ids, never as a matrix.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace stor {

// Some rows of the queries or of the keys.
struct Block {
  int64_t begin;
  int64_t size;
};

inline std::vector<Block> make_blocks(int64_t rows, int64_t block_size) {
  std::vector<Block> blocks;
  for (int64_t begin = 0; begin < rows; begin += block_size) {
    blocks.push_back({begin, std::min(block_size, rows - begin)});
  }
  return blocks;
}

// Finds the positives of each tile, as (row in the query block, row in the key block, weight).
class Positives {
 public:
  // Equal ids of at least 0 are positives of weight 1.
  static Positives by_id(const int64_t* query_id, const int64_t* key_id,
                         const std::vector<Block>& queries, const std::vector<Block>& keys,
                         bool against_itself) {
    Positives positives(queries, keys, against_itself);
    positives.query_ids_ = sorted_ids(query_id, queries);
    positives.key_ids_ = sorted_ids(key_id, keys);
    return positives;
  }

  // index is (N, width), -1 for none; weight likewise, or null for 1 each.
  static Positives by_index(const int64_t* index, const float* weight, int64_t width,
                            const std::vector<Block>& queries, const std::vector<Block>& keys,
                            bool against_itself) {
    Positives positives(queries, keys, against_itself);
    positives.listed_.resize(queries.size());
    for (size_t b = 0; b < queries.size(); ++b) {
      std::vector<Listed>& listed = positives.listed_[b];
      for (int64_t i = 0; i < queries[b].size * width; ++i) {
        const int64_t entry = queries[b].begin * width + i;
        const float entry_weight = weight ? weight[entry] : 1.0f;
        if (index[entry] < 0 || entry_weight == 0) continue;
        if (against_itself && index[entry] == entry / width) continue;
        const int64_t block_size = keys[0].size;
        listed.push_back(
            {index[entry] / block_size, i / width, index[entry] % block_size, entry_weight});
      }
      std::stable_sort(listed.begin(), listed.end(),
                       [](const Listed& a, const Listed& b) { return a.key_block < b.key_block; });
    }
    return positives;
  }

  template <typename Visit>
  void visit(int64_t query_block, int64_t key_block, const Visit& visit) const {
    if (listed_.empty()) {
      visit_equal_ids(query_block, key_block, visit);
      return;
    }
    const std::vector<Listed>& listed = listed_[query_block];
    auto entry = std::lower_bound(
        listed.begin(), listed.end(), key_block,
        [](const Listed& candidate, int64_t block) { return candidate.key_block < block; });
    for (; entry != listed.end() && entry->key_block == key_block; ++entry) {
      visit(entry->row, entry->column, entry->weight);
    }
  }

 private:
  struct Listed {
    int64_t key_block;
    int64_t row, column;  // within their blocks
    float weight;
  };
  struct Identified {
    int64_t id;
    int64_t row;  // within its block
  };
  using SortedIds = std::vector<std::vector<Identified>>;

  Positives(const std::vector<Block>& queries, const std::vector<Block>& keys, bool against_itself)
      : against_itself_(against_itself) {}

  static SortedIds sorted_ids(const int64_t* ids, const std::vector<Block>& blocks) {
    SortedIds sorted(blocks.size());
    for (size_t b = 0; b < blocks.size(); ++b) {
      for (int64_t row = 0; row < blocks[b].size; ++row) {
        const int64_t id = ids[blocks[b].begin + row];
        if (id >= 0) sorted[b].push_back({id, row});
      }
      std::stable_sort(sorted[b].begin(), sorted[b].end(),
                       [](const Identified& a, const Identified& b) { return a.id < b.id; });
    }
    return sorted;
  }

  // Walks both sorted lists once: tiles without a positive, most of them, cost their rows alone.
  template <typename Visit>
  void visit_equal_ids(int64_t query_block, int64_t key_block, const Visit& visit) const {
    const std::vector<Identified>& queries = query_ids_[query_block];
    const std::vector<Identified>& keys = key_ids_[key_block];
    const bool diagonal = against_itself_ && query_block == key_block;
    auto first = keys.begin();
    for (const Identified& query : queries) {
      while (first != keys.end() && first->id < query.id) ++first;
      for (auto key = first; key != keys.end() && key->id == query.id; ++key) {
        if (!(diagonal && key->row == query.row)) visit(query.row, key->row, 1.0f);
      }
    }
  }

  bool against_itself_;
  SortedIds query_ids_, key_ids_;
  std::vector<std::vector<Listed>> listed_;  // per query block, in the order of key blocks
};

}  // namespace stor
