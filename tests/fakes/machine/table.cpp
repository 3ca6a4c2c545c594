#include "table.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace fake {
namespace {

[[noreturn]] void die(const char* what, const std::filesystem::path& path) {
  std::fprintf(stderr, "fake GPU: %s %s: %s\n", what, path.c_str(), std::strerror(errno));
  std::abort();
}

}  // namespace

Table* Table::create(const std::filesystem::path& path) {
  auto* table = new Table;
  int flags = MAP_SHARED | MAP_ANONYMOUS, fd = -1;
  if (!path.empty()) {
    fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) die("open", path);
    // The lock's file is not the one that is mapped: whoever reads /proc/PID keeps the memory of a
    // dead process a little longer, and what is mapped in it open.
    const int lock = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX) != 0 || ftruncate(fd, 0) != 0 ||
        ftruncate(fd, kRecords * sizeof(Record)) != 0)
      die("prepare", path);
    flags = MAP_SHARED;
  }
  void* mapped = mmap(nullptr, kRecords * sizeof(Record), PROT_READ | PROT_WRITE, flags, fd, 0);
  if (mapped == MAP_FAILED) die("map", path);
  if (fd >= 0) close(fd);
  table->records_ = static_cast<Record*>(mapped);
  return table;
}

std::optional<std::uint64_t> Table::read(const std::filesystem::path& path, std::string_view name) {
  std::ifstream in(path, std::ios::binary);
  char record[sizeof(Record)];
  while (in.read(record, sizeof record) && record[0] != '\0') {
    if (name != std::string_view(record, strnlen(record, sizeof(Record::name)))) continue;
    std::uint64_t value = 0;
    std::memcpy(&value, record + offsetof(Record, value), sizeof value);
    return value;
  }
  return std::nullopt;
}

bool Table::owner_alive(const std::filesystem::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool alive = flock(fd, LOCK_SH | LOCK_NB) != 0;
  close(fd);
  return alive;
}

std::atomic<std::uint64_t>& Table::at(std::string_view name) {
  const std::lock_guard lock(mutex_);
  if (const auto found = index_.find(name); found != index_.end()) return *found->second;
  if (index_.size() == kRecords || name.size() >= sizeof(Record::name)) {
    std::fprintf(stderr, "fake GPU: no room for the counter %.*s\n", static_cast<int>(name.size()),
                 name.data());
    std::abort();
  }
  Record& record = records_[index_.size()];
  std::memcpy(record.name, name.data(), name.size());
  return *index_.emplace(name, &record.value).first->second;
}

}  // namespace fake
