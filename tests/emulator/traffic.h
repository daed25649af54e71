// Counts what warps ask of global memory, in the 32-byte sectors in which a GPU moves it. Every
// stor::load_global and stor::store_global is an access; accesses through bare pointers are not
// seen.
//
// A request is what the hardware serves at once: the accesses that the lanes of one warp make by
// one instruction. The emulator runs lanes one after the other and puts them together again:
//
//   Two accesses belong to one request if they come from the same warp, from the same call in the
//   source (file, line, column), since the same synchronisation, and each is its lane's n-th access
//   by that call since that synchronisation, with the same n.
//
// A synchronisation is a barrier of the block, or a warp operation (__syncwarp, a shuffle, a vote)
// in which the lane took part: there, lanes that looped a different number of times meet again. The
// rule assumes that a warp is otherwise as converged as it can be. It is exact where lanes take the
// same path or drop out of it. It counts too few requests where lanes of a warp reach one call by
// different paths, as through a helper function called from both sides of an if.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <source_location>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

namespace stor::emulator {

constexpr int kSectorBytes = 32;
constexpr int kWarpSize = 32;

enum class Direction : uint8_t { kRead, kWrite };

// A set of bytes, kept by sector: which bytes of it are touched.
class SectorMap {
 public:
  void add(uintptr_t address, int bytes) {
    for (uintptr_t end = address + bytes; address < end;) {
      const uintptr_t sector = address / kSectorBytes;
      const int first = address % kSectorBytes;
      const int count = std::min<int>(kSectorBytes - first, end - address);
      touched_[sector] |= static_cast<uint32_t>(((uint64_t{1} << count) - 1) << first);
      address += count;
    }
  }
  void add(const SectorMap& other) {
    for (const auto& [sector, bytes] : other.touched_) touched_[sector] |= bytes;
  }
  void clear() { touched_.clear(); }
  int64_t sectors() const { return touched_.size(); }
  int64_t bytes() const {
    int64_t count = 0;
    for (const auto& [sector, bytes] : touched_) count += std::popcount(bytes);
    return count;
  }

 private:
  std::unordered_map<uintptr_t, uint32_t> touched_;
};

// All figures are sums over what was counted: everything in one direction, or one call of it.
struct Tally {
  int64_t requests = 0;
  int64_t accesses = 0;         // by single threads
  int64_t bytes_requested = 0;  // over accesses; a byte asked for twice counts twice
  int64_t sectors = 0;          // over requests, of the distinct sectors in each: L1 traffic
  int64_t ideal_sectors = 0;    // over requests, of the fewest sectors that hold its distinct bytes
  int64_t block_sectors = 0;    // over blocks, of the distinct sectors in each: with an L1 that
                                // keeps everything, what a block fetches from L2
  int64_t unique_sectors = 0;   // distinct ones in all that was counted: DRAM traffic, with an L2
                                // that keeps everything
  int64_t unique_bytes = 0;     // distinct bytes in all that was counted: what was needed
};

struct CallTally {
  std::string call;  // file:line:column
  Direction direction;
  Tally tally;
};

struct TrafficReport {
  Tally reads;
  Tally writes;
  std::vector<CallTally> calls;
};

class TrafficCounter {
 public:
  bool counting() const { return counting_; }

  void start() {
    *this = TrafficCounter();
    counting_ = true;
  }

  TrafficReport stop() {
    counting_ = false;
    TrafficReport report = {directions_[0].total(), directions_[1].total(), {}};
    for (const auto& [key, id] : call_ids_) {
      const auto& [file, line, column, direction] = key;
      report.calls.push_back(
          {std::string(file) + ":" + std::to_string(line) + ":" + std::to_string(column), direction,
           calls_[id].group.total()});
    }
    return report;
  }

  // One access by thread number `thread` of the block; epoch changes at its synchronisations.
  void record(int thread, uint32_t epoch, Direction direction, const void* address, int bytes,
              const std::source_location& site) {
    const CallKey key = {site.file_name(), site.line(), site.column(), direction};
    const int id = call_ids_.try_emplace(key, static_cast<int>(calls_.size())).first->second;
    if (id == static_cast<int>(calls_.size())) calls_.push_back({direction, {}});
    if (thread >= static_cast<int>(accesses_.size())) accesses_.resize(thread + 1);
    accesses_[thread].push_back({reinterpret_cast<uintptr_t>(address), epoch, id, bytes});
  }

  // After the last thread of a block: puts its accesses together into requests.
  void end_block() {
    for (size_t first = 0; first < accesses_.size(); first += kWarpSize) count_warp(first);
    for (auto& lane : accesses_) lane.clear();
    for (Call& call : calls_) call.group.end_block();
    for (Group& direction : directions_) direction.end_block();
  }

 private:
  using CallKey = std::tuple<const char*, uint32_t, uint32_t, Direction>;

  struct Access {
    uintptr_t address;
    uint32_t epoch;
    int call;
    int bytes;
  };

  struct Request {
    int64_t accesses = 0;
    int64_t bytes_requested = 0;
    SectorMap touched;
  };

  // A tally and the sets that its figures of distinct sectors come from.
  class Group {
   public:
    void add(const Request& request) {
      ++tally_.requests;
      tally_.accesses += request.accesses;
      tally_.bytes_requested += request.bytes_requested;
      tally_.sectors += request.touched.sectors();
      tally_.ideal_sectors += (request.touched.bytes() + kSectorBytes - 1) / kSectorBytes;
      in_block_.add(request.touched);
    }
    void end_block() {
      tally_.block_sectors += in_block_.sectors();
      in_all_.add(in_block_);
      in_block_.clear();
    }
    Tally total() const {
      Tally tally = tally_;
      tally.unique_sectors = in_all_.sectors();
      tally.unique_bytes = in_all_.bytes();
      return tally;
    }

   private:
    Tally tally_;
    SectorMap in_block_;
    SectorMap in_all_;
  };

  struct Call {
    Direction direction;
    Group group;
  };

  void count_warp(size_t first_thread) {
    // By epoch, call and which of the lane's accesses by it this is. Epochs are unique in a block.
    std::map<std::tuple<uint32_t, int, int>, Request> requests;
    const size_t end = std::min(first_thread + kWarpSize, accesses_.size());
    for (size_t thread = first_thread; thread < end; ++thread) {
      std::map<std::pair<uint32_t, int>, int> ordinals;
      for (const Access& access : accesses_[thread]) {
        const int ordinal = ordinals[{access.epoch, access.call}]++;
        Request& request = requests[{access.epoch, access.call, ordinal}];
        ++request.accesses;
        request.bytes_requested += access.bytes;
        request.touched.add(access.address, access.bytes);
      }
    }
    for (const auto& [key, request] : requests) {
      Call& call = calls_[std::get<1>(key)];
      call.group.add(request);
      directions_[static_cast<int>(call.direction)].add(request);
    }
  }

  bool counting_ = false;
  std::vector<std::vector<Access>> accesses_;  // by thread of the running block
  std::map<CallKey, int> call_ids_;
  std::vector<Call> calls_;          // by call id
  std::array<Group, 2> directions_;  // by Direction
};

inline TrafficCounter traffic;

}  // namespace stor::emulator
