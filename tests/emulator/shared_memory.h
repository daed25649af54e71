// A block's shared memory. Each block starts with all of it full of 0xFF bytes, which are NaN in
// every floating-point type: what a kernel reads before it has written it shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "fibers.h"

// The bounds of all static __shared__ variables, by static_shared.ld; null without it.
extern "C" {
extern char stor_static_shared_begin[] __attribute__((weak, visibility("hidden")));
extern char stor_static_shared_end[] __attribute__((weak, visibility("hidden")));
}

namespace stor::emulator {

// Exactly as large as the launch says: AddressSanitizer sees the first byte beyond.
class DynamicShared {
 public:
  explicit DynamicShared(size_t size)
      : bytes_(static_cast<unsigned char*>(std::malloc(size ? size : 1))), size_(size) {
    if (!bytes_) throw std::bad_alloc();
  }
  ~DynamicShared() { std::free(bytes_); }
  DynamicShared(const DynamicShared&) = delete;
  DynamicShared& operator=(const DynamicShared&) = delete;

  unsigned char* bytes() const { return bytes_; }
  void poison() const { std::memset(bytes_, 0xFF, size_); }

 private:
  unsigned char* bytes_;
  size_t size_;
};

// By volatile words, not memset: the sanitizers must not see a write across their redzones.
STOR_EMULATOR_UNSANITIZED inline void poison_static_shared() {
  volatile char* next = stor_static_shared_begin;
  volatile char* const end = stor_static_shared_end;
  for (; end - next >= 8; next += 8) {
    *reinterpret_cast<volatile uint64_t*>(next) = ~uint64_t{0};
  }
  for (; next < end; ++next) *next = static_cast<char>(0xFF);
}

}  // namespace stor::emulator
