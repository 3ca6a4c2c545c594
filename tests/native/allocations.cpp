// Never inlined, because g++ would then see `new` meet free() and warn.
#include "allocations.hpp"

#include <cstdlib>
#include <new>

[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  gslice::test::allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t align,
                                     const std::nothrow_t&) noexcept {
  gslice::test::allocations.fetch_add(1, std::memory_order_relaxed);
  const auto at_least = static_cast<std::size_t>(align);
  if (at_least == gslice::test::refused_align.load()) return nullptr;
  void* memory = nullptr;
  return posix_memalign(&memory, at_least < sizeof(void*) ? sizeof(void*) : at_least, bytes) == 0
             ? memory
             : nullptr;
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* memory = operator new(bytes, std::nothrow)) return memory;
  throw std::bad_alloc{};
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t align) {
  if (void* memory = operator new(bytes, align, std::nothrow)) return memory;
  throw std::bad_alloc{};
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
