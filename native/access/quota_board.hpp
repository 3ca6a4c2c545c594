// What tenants take of a node, counted over all of its front-ends: exact, without a lock.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "access/layout.hpp"
#include "base/shared_memory.hpp"
#include "base/status.hpp"

namespace gslice {

class QuotaBoard {
 public:
  // kInternal: what the kernel said.
  static Result<std::shared_ptr<QuotaBoard>> create();
  // Maps a duplicate of `fd`. kInternal: it is no such board of this build.
  static Result<std::shared_ptr<QuotaBoard>> open(int fd);

  int fd() const { return memory_.fd(); }

  // Takes one of the requests that come `interval_ns` apart in the long run, and of which `burst`
  // may come at once. 0: done; otherwise in how many nanoseconds it may be asked again.
  std::int64_t take(std::size_t tenant, std::int64_t interval_ns, std::uint32_t burst,
                    std::int64_t now);

  // One more request is under way at a front-end. False: of all front-ends there are `most`.
  bool begin(std::size_t tenant, std::uint16_t frontend, std::uint32_t most);
  void end(std::size_t tenant, std::uint16_t frontend);
  // At all front-ends.
  std::uint32_t under_way(std::size_t tenant) const;
  // Nothing is under way at a front-end: it is new, or has died.
  void clear(std::uint16_t frontend);

 private:
  explicit QuotaBoard(SharedMemory memory) : memory_(std::move(memory)) {}

  SharedMemory memory_;
  QuotaBoardHeader* header_ = nullptr;
};

}  // namespace gslice
