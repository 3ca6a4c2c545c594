#include "frontend/regions.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "wire/text.hpp"

namespace gslice {
namespace {

using wire::concat;
using wire::quoted;

// So that sums of areas and offsets never overflow.
constexpr std::uint64_t kMostRegionBytes = std::uint64_t{1} << 48;

Status invalid_region(std::string message) {
  return Status::Error(Code::kInvalidArgument, std::move(message));
}

// Whether the kernel counts what processes may use (mode 2). It counts a page of a memfd when that
// is touched first, and may refuse it then.
bool counts_memory() {
  char mode = '2';
  const int fd = ::open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  const bool known = ::read(fd, &mode, 1) == 1;
  close(fd);
  return !known || mode == '2';
}

// Whether every page of the file is there for as long as it is mapped. Pages of hugetlbfs may not
// be, even of a sealed file: the pool of huge pages can be empty at the first touch.
bool stays_whole(int fd) {
  struct statfs system{};
  const int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstatfs(fd, &system) == 0 &&
         system.f_type == TMPFS_MAGIC && !counts_memory();
}

}  // namespace

Region::Region(std::string name, std::uint64_t offset_bytes, std::uint64_t size_bytes,
               std::string tenant)
    : name_(std::move(name)),
      tenant_(std::move(tenant)),
      offset_bytes_(offset_bytes),
      size_bytes_(size_bytes) {}

Region::~Region() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
  if (fd_ >= 0) close(fd_);
}

Result<std::shared_ptr<Region>> Region::open(std::string name, int fd, std::uint64_t offset_bytes,
                                             std::uint64_t size_bytes, std::string tenant) {
  struct stat file{};
  if (fstat(fd, &file) != 0)
    return invalid_region(concat("region ", quoted(name), ": ", std::strerror(errno)));
  if (!S_ISREG(file.st_mode))
    return invalid_region(concat("region ", quoted(name), " is not in a regular file"));
  if (size_bytes == 0 || size_bytes > kMostRegionBytes || offset_bytes > kMostRegionBytes)
    return invalid_region(concat("region ", quoted(name), " cannot have ", size_bytes,
                                 " bytes from byte ", offset_bytes, " on"));
  if (const auto end = static_cast<std::uint64_t>(file.st_size); offset_bytes + size_bytes > end)
    return invalid_region(concat("region ", quoted(name), " has ", size_bytes, " bytes from byte ",
                                 offset_bytes, " on, but its file ends at byte ", end));
  std::shared_ptr<Region> region(
      new Region(std::move(name), offset_bytes, size_bytes, std::move(tenant)));
  if (stays_whole(fd)) region->map(fd);
  if (region->mapped()) return region;
  region->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (region->fd_ < 0)
    return Status::Error(Code::kResourceExhausted,
                         concat("region ", quoted(region->name_), ": ", std::strerror(errno)));
  return region;
}

// What cannot be mapped, such as a file sealed against writing, is used by system calls.
void Region::map(int fd) {
  const std::uint64_t before = offset_bytes_ % static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t bytes = before + size_bytes_;
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                       static_cast<off_t>(offset_bytes_ - before));
  if (address == MAP_FAILED) return;
  mapping_ = static_cast<std::byte*>(address);
  mapping_bytes_ = bytes;
  base_ = mapping_ + before;
}

Status Region::check(std::uint64_t offset_bytes, std::uint64_t bytes) const {
  if (offset_bytes <= size_bytes_ && bytes <= size_bytes_ - offset_bytes) return Status::Ok();
  return invalid_region(concat(bytes, " bytes from byte ", offset_bytes, " on are not in region ",
                               quoted(name_), ", which has ", size_bytes_));
}

Status Region::shorter() const {
  return invalid_region(
      concat("region ", quoted(name_), ": its file has become shorter since it was registered"));
}

Status Region::read(std::uint64_t offset_bytes, std::span<std::byte> to) const {
  if (to.empty()) return Status::Ok();
  if (mapped()) {
    std::memcpy(to.data(), base_ + offset_bytes, to.size());
    return Status::Ok();
  }
  auto at = static_cast<off_t>(offset_bytes_ + offset_bytes);
  while (!to.empty()) {
    const ssize_t got = pread(fd_, to.data(), to.size(), at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return invalid_region(
          concat("region ", quoted(name_), " cannot be read: ", std::strerror(errno)));
    if (got == 0) return shorter();
    to = to.subspan(static_cast<std::size_t>(got));
    at += got;
  }
  return Status::Ok();
}

Status Region::write(std::uint64_t offset_bytes, wire::Bytes from) const {
  if (from.empty()) return Status::Ok();
  if (mapped()) {
    std::memcpy(base_ + offset_bytes, from.data(), from.size());
    return Status::Ok();
  }
  // Writing past its end would make it longer again, which nobody asked for.
  struct stat file{};
  auto at = static_cast<off_t>(offset_bytes_ + offset_bytes);
  if (fstat(fd_, &file) != 0 || file.st_size < at + static_cast<off_t>(from.size()))
    return shorter();
  while (!from.empty()) {
    const ssize_t put = pwrite(fd_, from.data(), from.size(), at);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0)
      return Status::Error(
          errno == ENOSPC ? Code::kResourceExhausted : Code::kInvalidArgument,
          concat("region ", quoted(name_), " cannot be written: ", std::strerror(errno)));
    from = from.subspan(static_cast<std::size_t>(put));
    at += put;
  }
  return Status::Ok();
}

void Regions::add(std::shared_ptr<Region> region) {
  remove(region->tenant(), region->name());
  const Id id{region->tenant(), region->name()};
  by_id_.emplace(id, std::move(region));
}

void Regions::remove(std::string_view tenant, std::string_view name) {
  if (const auto found = by_id_.find({tenant, name}); found != by_id_.end()) by_id_.erase(found);
}

const Region* Regions::find(std::string_view tenant, std::string_view name) const {
  const auto found = by_id_.find({tenant, name});
  return found == by_id_.end() ? nullptr : found->second.get();
}

}  // namespace gslice
