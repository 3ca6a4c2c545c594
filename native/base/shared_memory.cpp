#include "base/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace gslice {

namespace {

Status system_error(const std::string& what) {
  return Status::Error(Code::kInternal, what + ": " + std::strerror(errno));
}

}  // namespace

SharedMemory::~SharedMemory() {
  if (base_ != nullptr) munmap(base_, size_bytes_);
  if (fd_ >= 0) close(fd_);
}

Result<SharedMemory> SharedMemory::create(const std::string& name, std::uint64_t size_bytes) {
  SharedMemory memory;
  memory.fd_ = memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (memory.fd_ < 0) return system_error("memfd_create");
  if (ftruncate(memory.fd_, static_cast<off_t>(size_bytes)) != 0) return system_error("ftruncate");
  if (fcntl(memory.fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    return system_error("sealing");
  if (Status mapped = memory.map(size_bytes); !mapped.ok()) return mapped;
  return memory;
}

Result<SharedMemory> SharedMemory::open(int fd, std::uint64_t bytes_min) {
  SharedMemory memory;
  memory.fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (memory.fd_ < 0) return system_error("cannot duplicate the descriptor");
  struct stat file{};
  if (fstat(memory.fd_, &file) != 0) return system_error("fstat");
  const int seals = fcntl(memory.fd_, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
    return Status::Error(Code::kInternal, "it is not sealed against shrinking");
  const auto size_bytes = static_cast<std::uint64_t>(file.st_size);
  if (size_bytes < bytes_min) return Status::Error(Code::kInternal, "it is too short");
  if (Status mapped = memory.map(size_bytes); !mapped.ok()) return mapped;
  return memory;
}

Status SharedMemory::map(std::uint64_t size_bytes) {
  void* address = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (address == MAP_FAILED) return system_error("mmap");
  base_ = static_cast<std::byte*>(address);
  size_bytes_ = size_bytes;
  return Status::Ok();
}

}  // namespace gslice
