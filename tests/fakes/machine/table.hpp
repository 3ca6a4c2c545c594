// Named 64-bit words that other processes can read and write: a file of records {name, value},
// which say themselves what they hold, so that no layout has to be agreed on. tests/fakes/gpu.py
// reads them.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

namespace fake {

class Table {
 public:
  // Created anew at `path`, locked (flock) for as long as this process lives: that is how others
  // tell a living owner. Without a path it is this process's own.
  static Table* create(const std::filesystem::path& path);
  // Another process's; null if it has gone or is not ready yet.
  static std::optional<std::uint64_t> read(const std::filesystem::path& path,
                                           std::string_view name);
  static bool owner_alive(const std::filesystem::path& path);

  std::atomic<std::uint64_t>& at(std::string_view name);

 private:
  struct Record {
    char name[56];
    std::atomic<std::uint64_t> value;
  };
  static constexpr std::size_t kRecords = 1024;
  static_assert(sizeof(Record) == 64);

  Record* records_ = nullptr;
  std::mutex mutex_;
  std::map<std::string, std::atomic<std::uint64_t>*, std::less<>> index_;
};

}  // namespace fake
