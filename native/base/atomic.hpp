// Atomics that live in shared memory, and the one hook through which the interleaving test
// drives every access to them. In production `schedule_point` is empty and costs nothing.
#pragma once

#include <atomic>
#include <cstdint>

namespace gslice {

#ifdef GSLICE_INTERLEAVE
void schedule_point();  // defined by tests/native/interleave.cpp: may switch to another fiber
#else
inline void schedule_point() {}
#endif

// Every operation is sequentially consistent unless it says relaxed: the doorbells rely on it,
// and one batch makes only a handful of them.
template <typename T>
class Shared {
 public:
  T load() const {
    schedule_point();
    return value_.load(std::memory_order_seq_cst);
  }
  void store(T value) {
    schedule_point();
    value_.store(value, std::memory_order_seq_cst);
  }
  T exchange(T value) {
    schedule_point();
    return value_.exchange(value, std::memory_order_seq_cst);
  }
  bool compare_exchange(T& expected, T desired) {
    schedule_point();
    return value_.compare_exchange_strong(expected, desired, std::memory_order_seq_cst);
  }
  T fetch_add(T value) {
    schedule_point();
    return value_.fetch_add(value, std::memory_order_seq_cst);
  }
  T fetch_sub(T value) {
    schedule_point();
    return value_.fetch_sub(value, std::memory_order_seq_cst);
  }
  T fetch_or(T value) {
    schedule_point();
    return value_.fetch_or(value, std::memory_order_seq_cst);
  }
  T fetch_and(T value) {
    schedule_point();
    return value_.fetch_and(value, std::memory_order_seq_cst);
  }
  // Counters and published estimates: no ordering is needed.
  T load_relaxed() const { return value_.load(std::memory_order_relaxed); }
  void store_relaxed(T value) { value_.store(value, std::memory_order_relaxed); }
  void add_relaxed(T value) { value_.fetch_add(value, std::memory_order_relaxed); }

  std::atomic<T>& raw() { return value_; }  // the futex needs the address

 private:
  std::atomic<T> value_{};
};

// A field that some process may read while another rewrites it: relaxed, without any order of its
// own. The compare-and-swap on the slot's word publishes it, and tells the reader afterwards
// whether what it read belonged to the generation it meant. Reads and writes like the plain type.
template <typename T>
class Relaxed {
 public:
  Relaxed() : value_(T{}) {}
  explicit Relaxed(T value) : value_(value) {}
  Relaxed(const Relaxed&) = delete;
  Relaxed& operator=(const Relaxed&) = delete;
  operator T() const { return value_.load(std::memory_order_relaxed); }  // NOLINT: by design
  T operator=(T value) {
    value_.store(value, std::memory_order_relaxed);
    return value;
  }

 private:
  std::atomic<T> value_;
};

// One copy of a plain field that another process may rewrite at any time: what is checked is what
// is used. The empty asm might have changed the copy, so no compiler reads the field again instead.
template <typename T>
T read_once(const T& shared) {
  T copy = shared;
  asm volatile("" : "+m"(copy));
  return copy;
}

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

}  // namespace gslice
