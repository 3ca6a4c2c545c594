// A file in memory that several processes map: its descriptor travels between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "base/status.hpp"

namespace gslice {

// Its size is sealed, so whoever maps it is never cut off from a part. Unmapped and closed with the
// object.
class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(base_, other.base_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  ~SharedMemory();

  // Zeroed. kInternal: what the kernel said.
  static Result<SharedMemory> create(const std::string& name, std::uint64_t size_bytes);
  // Maps a duplicate of `fd`. kInternal: it could not; or it is shorter than `bytes_min`, or not
  // sealed against shrinking.
  static Result<SharedMemory> open(int fd, std::uint64_t bytes_min);

  int fd() const { return fd_; }
  std::byte* base() const { return base_; }
  std::uint64_t size_bytes() const { return size_bytes_; }

 private:
  Status map(std::uint64_t size_bytes);

  int fd_ = -1;
  std::byte* base_ = nullptr;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace gslice
