// Fibers: functions with a stack of their own that hand the one OS thread to each other. The
// emulator runs every CUDA thread as one.
//
// Why not OS threads: they would need locks around every emulated barrier and shuffle, and
// ThreadSanitizer takes each lock for an ordering that CUDA does not give, so a missing
// __syncthreads() goes unseen. Fibers are never ordered by being switched; ThreadSanitizer is told
// of exactly the orderings that CUDA promises (see tsan_release and tsan_acquire).
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#define STOR_EMULATOR_UNSANITIZED \
  __attribute__((noinline, no_sanitize("address", "thread", "undefined")))

// Saves the callee-saved registers and the stack pointer of the caller, and continues where the
// other side saved its own. ucontext does the same at more than ten times the cost, in a system
// call, and the sanitizers intercept it in ways that forget the redzones of a fiber's stack.
extern "C" void stor_emulator_switch_stack(void** save_here, void* continue_there);
#if defined(__x86_64__)
asm(R"(
.text
.weak stor_emulator_switch_stack
.hidden stor_emulator_switch_stack
.type stor_emulator_switch_stack, @function
stor_emulator_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#else
#error "the emulator switches stacks in x86-64 assembly only: write stor_emulator_switch_stack"
#endif

namespace stor::emulator {

// What happened before the release of a tag happens before what follows its acquisition. These two
// make every ordering that ThreadSanitizer knows of; without it they are nothing.
inline void tsan_release([[maybe_unused]] void* tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(tag);
#endif
}

inline void tsan_acquire([[maybe_unused]] void* tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(tag);
#endif
}

// While one lives, ThreadSanitizer ignores the memory accesses of this fiber: the emulator's own
// bookkeeping, which all fibers share, is not part of the kernel under test.
class Unseen {
 public:
#if defined(__SANITIZE_THREAD__)
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}  // not defaulted: an object that does nothing is not an unused variable
#endif
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
#if defined(__SANITIZE_THREAD__)
    if (tsan_) __tsan_destroy_fiber(tsan_);
#endif
    if (stack_) munmap(stack_ - guard_bytes(), kStackBytes + guard_bytes());
  }

  // The next resume() calls entry, which must end in finish(), on a fresh stack.
  void prepare(void (*entry)()) {
    if (!stack_) allocate_stack();
    // The frame that stor_emulator_switch_stack pops: six registers and the return address, above
    // it a null return address for entry, which leaves the stack aligned as after a call.
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer_ = top;
#if defined(__SANITIZE_THREAD__)
    if (!tsan_) tsan_ = __tsan_create_fiber(0);
#endif
  }

  // From the scheduler: run this fiber until it suspends or finishes.
  STOR_EMULATOR_UNSANITIZED void resume() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
    scheduler_.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
#endif
    stor_emulator_switch_stack(&scheduler_.stack_pointer, stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  // From the fiber itself: back to the scheduler, until the next resume().
  STOR_EMULATOR_UNSANITIZED void suspend() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, scheduler_.bottom, scheduler_.bytes);
#endif
    leave();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_.bottom, &scheduler_.bytes);
#endif
  }

  // First thing in an entry function.
  STOR_EMULATOR_UNSANITIZED static void begin() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_.bottom, &scheduler_.bytes);
#endif
  }

  // Last thing in an entry function.
  [[noreturn]] STOR_EMULATOR_UNSANITIZED void finish() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(nullptr, scheduler_.bottom, scheduler_.bytes);
#endif
    leave();
    __builtin_trap();
  }

 private:
  static constexpr size_t kStackBytes = 256 << 10;
  static size_t guard_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

  // Below the stack lies a page that nobody may touch: a kernel that needs more crashes at once.
  void allocate_stack() {
    void* memory = mmap(nullptr, kStackBytes + guard_bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard_bytes(), PROT_NONE);
    stack_ = static_cast<char*>(memory) + guard_bytes();
  }

  STOR_EMULATOR_UNSANITIZED void leave() {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(scheduler_.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    stor_emulator_switch_stack(&stack_pointer_, scheduler_.stack_pointer);
  }

  // Where the scheduler left off, and what the sanitizers call it.
  struct Scheduler {
    void* stack_pointer;
    const void* bottom;
    size_t bytes;
    void* tsan;
  };
  inline static Scheduler scheduler_ = {};

  char* stack_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* tsan_ = nullptr;
};

}  // namespace stor::emulator
