// Clients' own memory, which requests may name in place of sending tensors: KServe's system shared
// memory. A client can change what is in it at any time, and make most of it shorter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/status.hpp"
#include "wire/reader.hpp"

namespace gslice {

// A part of a client's file, under the name that requests use. Bytes are copied in one step each
// way, so nothing that the client does meanwhile can be worse than wrong numbers in its own tensor.
class Region : public std::enable_shared_from_this<Region> {
 public:
  // `fd` stays the caller's; `tenant`: as below. kInvalidArgument: it is no regular file, or ends
  // before the range does.
  static Result<std::shared_ptr<Region>> open(std::string name, int fd, std::uint64_t offset_bytes,
                                              std::uint64_t size_bytes, std::string tenant = {});
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::string_view name() const { return name_; }
  // Whose requests may name it; empty: those of callers without a tenant.
  std::string_view tenant() const { return tenant_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  // Only a file whose pages nobody can take away is: one that is gone would be a signal, not an
  // error. Others are read and written by system calls.
  bool mapped() const { return base_ != nullptr; }

  // kInvalidArgument: it does not lie in the region.
  Status check(std::uint64_t offset_bytes, std::uint64_t bytes) const;
  // Both of what `check` has let pass. kInvalidArgument: the client has made its file shorter;
  // kResourceExhausted: the file takes no more.
  Status read(std::uint64_t offset_bytes, std::span<std::byte> to) const;
  Status write(std::uint64_t offset_bytes, wire::Bytes from) const;

 private:
  Region(std::string name, std::uint64_t offset_bytes, std::uint64_t size_bytes,
         std::string tenant);
  void map(int fd);
  Status shorter() const;

  std::string name_;
  std::string tenant_;
  std::uint64_t offset_bytes_;  // in the file
  std::uint64_t size_bytes_;
  int fd_ = -1;                   // unless mapped
  std::byte* mapping_ = nullptr;  // from the start of a page
  std::uint64_t mapping_bytes_ = 0;
  std::byte* base_ = nullptr;  // of the region
};

// Where a tensor lies in a client's memory; without a region: it travels in the message. Good until
// regions are changed.
struct ClientArea {
  const Region* region = nullptr;
  std::uint64_t offset_bytes = 0;
  std::uint64_t bytes = 0;
};

// Each tenant's have names of their own: none can tell what others have.
class Regions {
 public:
  // Replaces the tenant's of the same name.
  void add(std::shared_ptr<Region> region);
  // Requests in flight still use it.
  void remove(std::string_view tenant, std::string_view name);
  const Region* find(std::string_view tenant, std::string_view name) const;

 private:
  using Id = std::pair<std::string_view, std::string_view>;  // of the tenant and of its region
  struct HashId {
    std::size_t operator()(const Id& id) const {
      const std::hash<std::string_view> hash;
      return id.first.empty() ? hash(id.second) : hash(id.first) * 31 + hash(id.second);
    }
  };
  std::unordered_map<Id, std::shared_ptr<Region>, HashId> by_id_;  // keys live in regions
};

// Those that a caller's requests may name.
struct CallersRegions {
  const Regions* all = nullptr;  // null: clients' memory is not offered
  std::string_view tenant;

  const Region* find(std::string_view name) const { return all->find(tenant, name); }
};

}  // namespace gslice
