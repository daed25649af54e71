// What the scheduler knows of the threads it runs, and how it names them in errors.
#pragma once

#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "fibers.h"

// CUDA's built-in variables: those of the thread that runs.
inline uint3 threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;
constexpr int warpSize = 32;

namespace stor::emulator {

// What a kernel did that CUDA forbids. The launch that ran it throws this.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class State : uint8_t { kRunnable, kAtBarrier, kAtWarpOperation, kFinished };

enum class WarpOperation : uint8_t { kSync, kShuffle, kVote };

// What one lane hands to another.
struct alignas(16) Payload {
  unsigned char bytes[16];
};

struct CudaThread {
  Fiber fiber;
  State state;
  uint3 index;
  int number;  // within the block, x fastest
  int lane;
  int warp;
  uint32_t epoch;             // changes whenever it has met others: see traffic.h
  std::source_location site;  // of the meeting where it waits
  WarpOperation operation;    // this and all below: of the warp operation where it waits
  unsigned mask;
  int source_lane;
  Payload value;
  Payload result;
  char* tag;
};

struct Warp {
  unsigned live;     // lanes that exist and have not returned
  unsigned waiting;  // lanes in a warp operation
  // Each meeting has a tag of its own for ThreadSanitizer, as two can be under way at once (with
  // disjoint masks) and lanes leave one while others already enter the next.
  char tags[64];
  int next_tag;
};

inline std::string format(const uint3& index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
         std::to_string(index.z) + ")";
}

inline std::string format(const std::source_location& site) {
  const std::string file = site.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line());
}

// The order in which the threads of a block get to run between two meetings.
class Order {
 public:
  Order() {
    const char* text = std::getenv("STOR_EMULATOR_ORDER");
    set(text ? text : "forward");
  }

  // "forward", "reverse" or "random:SEED".
  void set(const std::string& text) {
    const bool random = text.rfind("random:", 0) == 0;
    if (!random && text != "forward" && text != "reverse") {
      throw std::invalid_argument("order: expected forward, reverse or random:SEED, got " + text);
    }
    kind_ = random ? Kind::kRandom : text == "forward" ? Kind::kForward : Kind::kReverse;
    if (random) random_.seed(std::stoul(text.substr(7)));
  }

  // Sorts the numbers of a block's threads for their next turn.
  void arrange(std::vector<int>& numbers) {
    if (kind_ == Kind::kRandom) return std::shuffle(numbers.begin(), numbers.end(), random_);
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = kind_ == Kind::kForward ? i : numbers.size() - 1 - i;
    }
  }

 private:
  enum class Kind { kForward, kReverse, kRandom };
  Kind kind_;
  std::mt19937 random_;
};

inline Order order;

}  // namespace stor::emulator
