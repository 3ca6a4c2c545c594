// Counts a process's allocations, for LD_PRELOAD: file GSLICE_COUNT_ALLOCATIONS/PID holds how many
// there were, as one 64-bit number that is always up to date.
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

using Counter = std::atomic<std::uint64_t>;

Counter before_start{0};  // counted there until there is a file
std::atomic<Counter*> counter{&before_start};

// Nothing here allocates.
void open_counter() {
  const char* const directory = std::getenv("GSLICE_COUNT_ALLOCATIONS");
  char path[4096];
  if (directory == nullptr || std::snprintf(path, sizeof path, "%s/%d", directory, getpid()) < 0)
    return;
  const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, sizeof(Counter)) != 0) std::abort();
  void* const mapped = mmap(nullptr, sizeof(Counter), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) std::abort();
  close(fd);
  counter.store(static_cast<Counter*>(mapped));
}

void count() { counter.load(std::memory_order_relaxed)->fetch_add(1, std::memory_order_relaxed); }

[[gnu::constructor]] void start() {
  open_counter();
  pthread_atfork(nullptr, nullptr, open_counter);
}

}  // namespace

extern "C" {

void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* old, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);

[[gnu::visibility("default")]] void* malloc(std::size_t bytes) {
  count();
  return __libc_malloc(bytes);
}

[[gnu::visibility("default")]] void* calloc(std::size_t elements, std::size_t bytes) {
  count();
  return __libc_calloc(elements, bytes);
}

[[gnu::visibility("default")]] void* realloc(void* old, std::size_t bytes) {
  count();
  return __libc_realloc(old, bytes);
}

[[gnu::visibility("default")]] void* memalign(std::size_t alignment, std::size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}

[[gnu::visibility("default")]] void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  count();
  return __libc_memalign(alignment, bytes);
}

[[gnu::visibility("default")]] int posix_memalign(void** out, std::size_t alignment,
                                                  std::size_t bytes) {
  count();
  *out = __libc_memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
}
