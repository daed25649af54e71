// The scheduler: runs the threads of one block as fibers, and everything at which they meet.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include "shared_memory.h"
#include "threads.h"
#include "traffic.h"

namespace stor::emulator {

class Block {
 public:
  static constexpr int kMaxThreads = 1024;
  static constexpr size_t kMaxSharedBytes = 227 << 10;

  unsigned char* dynamic_shared() const { return dynamic_shared_; }
  const CudaThread& running() const { return *running_; }

  void launch(const char* kernel_name, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()>& kernel) {
    Unseen unseen;
    active_ = this;
    kernel_name_ = kernel_name;
    running_ = nullptr;
    blockIdx = {};
    check_configuration(grid, block, shared_bytes);
    gridDim = grid;
    blockDim = block;
    kernel_ = &kernel;
    size_ = block.x * block.y * block.z;
    turns_.resize(size_);
    for (int i = 0; i < size_; ++i) turns_[i] = i;
    const DynamicShared dynamic_shared(shared_bytes);
    dynamic_shared_ = dynamic_shared.bytes();
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = make_uint3(x, y, z);
          dynamic_shared.poison();
          poison_static_shared();
          run_block();
        }
      }
    }
  }

  // __syncthreads(), and the sum of `vote` over the block for its variants. Threads that have
  // returned are not waited for, as on every GPU since compute capability 7.0.
  int meet_block(int vote, const char* name, const std::source_location& site) {
    Unseen unseen;
    if (at_barrier_ > 0 && !same(site, barrier_site_)) {
      fail("divergent barrier: it reached " + std::string(name) + " at " + format(site) +
           " while " + std::to_string(at_barrier_) + " thread(s) wait in the one at " +
           format(barrier_site_));
    }
    barrier_site_ = site;
    ++at_barrier_;
    votes_ += vote;
    // Two tags in turn: threads that run ahead into the next barrier must not look ordered before
    // those that have yet to leave this one.
    char* const tag = &barrier_tags_[barriers_ % 2];
    tsan_release(tag);
    wait(State::kAtBarrier, site);
    tsan_acquire(tag);
    return votes_result_;
  }

  // A warp operation: returns once every live lane of the mask has called it.
  Payload meet_warp(WarpOperation operation, unsigned mask, const Payload& value, int source_lane,
                    const std::source_location& site) {
    Unseen unseen;
    CudaThread& self = *running_;
    Warp& warp = warps_[self.warp];
    if (!(mask >> self.lane & 1)) fail("warp operation: its mask lacks the calling lane", site);
    self.operation = operation;
    self.mask = mask;
    self.value = value;
    self.source_lane = source_lane;
    self.tag = tag_of_meeting(self);
    warp.waiting |= 1u << self.lane;
    const bool orders_memory = operation == WarpOperation::kSync;  // shuffles and votes do not
    if (orders_memory) tsan_release(self.tag);
    wait(State::kAtWarpOperation, site);
    if (orders_memory) tsan_acquire(self.tag);
    return self.result;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error("CUDA emulator: " + std::string(kernel_name_) + ": block " + format(blockIdx) +
                (running_ ? " thread " + format(running_->index) : "") + ": " + what);
  }

  [[noreturn]] void fail(const std::string& what, const std::source_location& site) const {
    fail(what + ", at " + format(site));
  }

 private:
  // Thrown in threads that wait while another fails.
  struct Abandoned {};

  static bool same(const std::source_location& a, const std::source_location& b) {
    return a.line() == b.line() && a.column() == b.column() &&
           std::strcmp(a.file_name(), b.file_name()) == 0;
  }

  void check_configuration(dim3 grid, dim3 block, size_t shared_bytes) const {
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (!(threads >= 1 && threads <= kMaxThreads && block.z <= 64)) {
      fail("invalid configuration: block of " + format(make_uint3(block.x, block.y, block.z)));
    }
    if (!(grid.x >= 1 && grid.x < 1u << 31 && grid.y >= 1 && grid.y < 1u << 16 && grid.z >= 1 &&
          grid.z < 1u << 16)) {
      fail("invalid configuration: grid of " + format(make_uint3(grid.x, grid.y, grid.z)));
    }
    if (shared_bytes > kMaxSharedBytes) {
      fail("invalid configuration: " + std::to_string(shared_bytes) + " bytes of shared memory");
    }
  }

  void run_block() {
    unfinished_ = size_;
    at_barrier_ = 0;
    barriers_ = 0;
    votes_ = 0;
    epochs_ = 0;
    failure_ = nullptr;
    for (Warp& warp : warps_) warp = {};
    for (int i = 0; i < size_; ++i) prepare(threads_[i], i);
    tsan_release(&block_begins_);
    while (unfinished_ > 0) {
      if (!give_turns()) fail_deadlocked();
    }
    tsan_acquire(&block_ends_);
    running_ = nullptr;
    traffic.end_block();
  }

  void prepare(CudaThread& thread, int number) {
    thread.state = State::kRunnable;
    thread.index = make_uint3(number % blockDim.x, number / blockDim.x % blockDim.y,
                              number / (blockDim.x * blockDim.y));
    thread.number = number;
    thread.lane = number % kWarpSize;
    thread.warp = number / kWarpSize;
    thread.epoch = 0;
    warps_[thread.warp].live |= 1u << thread.lane;
    thread.fiber.prepare(&enter_thread);
  }

  // Runs each runnable thread until it waits or returns. False if there is none.
  bool give_turns() {
    bool any = false;
    order.arrange(turns_);
    for (const int number : turns_) {
      CudaThread& thread = threads_[number];
      if (thread.state != State::kRunnable) continue;
      any = true;
      running_ = &thread;
      threadIdx = thread.index;
      thread.fiber.resume();
      if (failure_) abandon();
    }
    return any;
  }

  STOR_EMULATOR_UNSANITIZED static void enter_thread() {
    Fiber::begin();
    active_->run_thread();
    active_->running_->fiber.finish();
  }

  void run_thread() {
    try {
      tsan_acquire(&block_begins_);
      if (!has_failed()) {
        (*kernel_)();
        retire();
      }
    } catch (...) {
      note_failure(std::current_exception());
    }
    tsan_release(&block_ends_);
  }

  bool has_failed() const {
    Unseen unseen;
    return failure_ != nullptr;
  }

  // The first failure is kept, for the scheduler to throw on; others come of it.
  void note_failure(std::exception_ptr failure) {
    Unseen unseen;
    if (!failure_) failure_ = std::move(failure);
    running_->state = State::kFinished;
  }

  void retire() {
    Unseen unseen;
    running_->state = State::kFinished;
    --unfinished_;
    Warp& warp = warps_[running_->warp];
    warp.live &= ~(1u << running_->lane);
    open_barrier_if_all_wait();
    // Those who waited for this lane alone. The masks of waiting lanes are equal or disjoint.
    for (unsigned lanes = warp.waiting; lanes; lanes &= lanes - 1) {
      complete_if_all_wait(lane_of(*running_, std::countr_zero(lanes)));
    }
  }

  // Suspends the running thread until others have come to where it is. The last to come
  // gives way as well: after a meeting, all start in the order that was asked for.
  void wait(State state, const std::source_location& site) {
    CudaThread& self = *running_;
    self.state = state;
    self.site = site;
    if (state == State::kAtBarrier) {
      open_barrier_if_all_wait();
    } else {
      complete_if_all_wait(self);
    }
    self.fiber.suspend();
    if (failure_) throw Abandoned();
  }

  void open_barrier_if_all_wait() {
    if (at_barrier_ == 0 || at_barrier_ != unfinished_) return;
    ++epochs_;
    for (int i = 0; i < size_; ++i) {
      if (threads_[i].state == State::kAtBarrier) set_free(threads_[i]);
    }
    at_barrier_ = 0;
    ++barriers_;
    votes_result_ = votes_;
    votes_ = 0;
  }

  void set_free(CudaThread& thread) {
    thread.state = State::kRunnable;
    thread.epoch = epochs_;
  }

  CudaThread& lane_of(const CudaThread& thread, int lane) {
    return threads_[thread.warp * kWarpSize + lane];
  }

  // The tag of the meeting that the thread joins, or a fresh one if it is the first to come.
  char* tag_of_meeting(const CudaThread& self) {
    Warp& warp = warps_[self.warp];
    for (unsigned lanes = warp.waiting & self.mask; lanes; lanes &= lanes - 1) {
      const CudaThread& other = lane_of(self, std::countr_zero(lanes));
      if (other.mask == self.mask) return other.tag;
    }
    return &warp.tags[warp.next_tag++ % std::size(warp.tags)];
  }

  void complete_if_all_wait(CudaThread& one) {
    Warp& warp = warps_[one.warp];
    const unsigned lanes = one.mask & warp.live;
    if ((warp.waiting & lanes) != lanes) return;
    unsigned ballot = 0;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      const CudaThread& other = lane_of(one, lane);
      if (other.mask != one.mask || other.operation != one.operation) {
        fail("divergent warp operation: the lanes of mask " + std::to_string(one.mask) +
                 " meet with different masks or in different operations, here and at " +
                 format(other.site),
             one.site);
      }
      ballot |= static_cast<unsigned>(other.value.bytes[0] != 0) << lane;
    }
    ++epochs_;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
      CudaThread& thread = lane_of(one, std::countr_zero(rest));
      if (thread.operation == WarpOperation::kShuffle) {
        if (!(lanes >> thread.source_lane & 1)) {
          fail("shuffle: lane " + std::to_string(thread.lane) + " reads lane " +
                   std::to_string(thread.source_lane) +
                   ", which is not in the mask or has returned",
               thread.site);
        }
        thread.result = lane_of(one, thread.source_lane).value;
      } else {
        std::memcpy(thread.result.bytes, &ballot, sizeof ballot);
      }
      set_free(thread);
    }
    warp.waiting &= ~lanes;
  }

  [[noreturn]] void fail_deadlocked() {
    std::string what =
        "divergent barrier or warp operation: threads wait for each other in different places";
    for (const State state : {State::kAtBarrier, State::kAtWarpOperation}) {
      const auto waits = [&](const CudaThread& thread) { return thread.state == state; };
      const auto first = std::find_if(threads_, threads_ + size_, waits);
      if (first == threads_ + size_) continue;
      what += "; " + std::to_string(std::count_if(threads_, threads_ + size_, waits)) +
              (state == State::kAtBarrier ? " in a barrier" : " in a warp operation") +
              ", the first of them thread " + format(first->index) + " at " + format(first->site);
    }
    running_ = nullptr;
    try {
      fail(what);
    } catch (...) {
      failure_ = std::current_exception();
    }
    abandon();
  }

  // Lets every thread unwind its stack, then throws what made the launch fail.
  [[noreturn]] void abandon() {
    for (int i = 0; i < size_; ++i) {
      running_ = &threads_[i];
      if (running_->state != State::kFinished) running_->fiber.resume();
    }
    tsan_acquire(&block_ends_);
    running_ = nullptr;
    traffic.end_block();
    std::rethrow_exception(failure_);
  }

  inline static Block* active_ = nullptr;

  const char* kernel_name_ = "";
  const std::function<void()>* kernel_ = nullptr;
  unsigned char* dynamic_shared_ = nullptr;
  CudaThread* running_ = nullptr;
  CudaThread threads_[kMaxThreads];
  Warp warps_[kMaxThreads / kWarpSize];
  int size_ = 0;
  std::vector<int> turns_;

  int unfinished_ = 0;
  int at_barrier_ = 0;
  int votes_ = 0;
  int votes_result_ = 0;
  uint32_t barriers_ = 0;  // opened so far
  uint32_t epochs_ = 0;
  std::source_location barrier_site_;
  std::exception_ptr failure_;

  char barrier_tags_[2];
  char block_begins_;
  char block_ends_;
};

inline Block block;

}  // namespace stor::emulator
