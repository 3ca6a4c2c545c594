// What the bare echo keeps of calls: their messages, and what is to be sent next. Reused from call
// to call, so that nothing is allocated once it is warm.
#pragma once

#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace gslice::echo {

inline constexpr std::size_t kPrefixBytes = 5;  // in front of every gRPC message
inline constexpr std::size_t kMessageMax = 64 << 20;

// One call: its message, which is received here and sent from here.
struct Stream {
  std::unique_ptr<std::uint8_t[]> data;
  std::size_t capacity = 0;
  std::size_t received = 0;
  std::size_t sent = 0;

  std::uint8_t* end() { return data.get() + received; }
  std::size_t room() const { return capacity - received; }

  // What its message lacks, as far as that is known.
  std::size_t missing() const { return received < kPrefixBytes ? 0 : announced() - received; }

  bool take(const std::uint8_t* bytes, std::size_t count) {
    if (count > room() && !reserve(received + count)) return false;
    if (bytes != end()) std::memcpy(end(), bytes, count);  // else it was received in place
    const bool told = received >= kPrefixBytes;
    received += count;
    return told || received < kPrefixBytes || reserve(announced());
  }

 private:
  std::size_t announced() const {
    std::uint32_t bytes = 0;
    std::memcpy(&bytes, data.get() + 1, sizeof bytes);
    return kPrefixBytes + ntohl(bytes);
  }

  bool reserve(std::size_t bytes) {
    if (bytes <= capacity) return true;
    if (bytes > kMessageMax) return false;
    auto larger = std::make_unique_for_overwrite<std::uint8_t[]>(bytes);
    if (received > 0) std::memcpy(larger.get(), data.get(), received);
    data = std::move(larger);
    capacity = bytes;
    return true;
  }
};

// Streams of ended calls, with their memory, for the next ones. The last one first: it is in cache.
class Pool {
 public:
  Stream* get() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<Stream>());
      return all_.back().get();
    }
    Stream* stream = free_.back();
    free_.pop_back();
    return stream;
  }

  void put(Stream* stream) {
    stream->received = stream->sent = 0;
    free_.push_back(stream);
  }

 private:
  std::vector<std::unique_ptr<Stream>> all_;
  std::vector<Stream*> free_;
};

// What is to be sent next: heads and small messages copied side by side, large ones pointed at.
class Outbox {
 public:
  bool empty() const { return part_count_ == 0; }
  bool has_room(std::size_t bytes) const {
    return part_count_ + 2 <= parts_.size() && used_ + bytes <= bytes_.size();
  }

  void copy(const std::uint8_t* bytes, std::size_t count) {
    std::uint8_t* to = bytes_.data() + used_;
    std::memcpy(to, bytes, count);
    used_ += count;
    iovec* last = part_count_ == 0 ? nullptr : &parts_[part_count_ - 1];
    if (last != nullptr && static_cast<std::uint8_t*>(last->iov_base) + last->iov_len == to)
      last->iov_len += count;
    else
      parts_[part_count_++] = {to, count};
  }

  void point(std::uint8_t* bytes, std::size_t count) { parts_[part_count_++] = {bytes, count}; }

  // False: the connection broke. Empty afterwards, unless the socket takes no more now.
  bool send(int fd) {
    while (first_ < part_count_) {
      msghdr message{};
      message.msg_iov = &parts_[first_];
      message.msg_iovlen = part_count_ - first_;
      const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN;
      skip(static_cast<std::size_t>(sent));
    }
    first_ = part_count_ = used_ = 0;
    return true;
  }

 private:
  void skip(std::size_t bytes) {
    while (first_ < part_count_ && bytes >= parts_[first_].iov_len)
      bytes -= parts_[first_++].iov_len;
    if (bytes == 0) return;
    iovec& part = parts_[first_];
    part.iov_base = static_cast<std::uint8_t*>(part.iov_base) + bytes;
    part.iov_len -= bytes;
  }

  std::array<std::uint8_t, 128 << 10> bytes_;
  std::array<iovec, 256> parts_;
  std::size_t used_ = 0;
  std::size_t first_ = 0;
  std::size_t part_count_ = 0;
};

// nghttp2's own memory: blocks by powers of two, kept for the next one of that size.
class Recycler {
 public:
  Recycler() = default;
  ~Recycler() {
    for (Block* free : free_)
      while (free != nullptr) std::free(std::exchange(free, free->next));
  }
  Recycler(const Recycler&) = delete;
  Recycler& operator=(const Recycler&) = delete;

  nghttp2_mem* functions() { return &functions_; }

 private:
  struct alignas(std::max_align_t) Block {
    std::size_t size_class = 0;
    Block* next = nullptr;  // while it is free
  };

  void* take(std::size_t bytes) {
    const auto size_class = static_cast<std::size_t>(std::bit_width(bytes));
    Block* block = free_[size_class];
    if (block != nullptr)
      free_[size_class] = block->next;
    else if (block = static_cast<Block*>(std::malloc(sizeof(Block) + room(size_class))); !block)
      return nullptr;
    block->size_class = size_class;
    return block + 1;
  }

  void give_back(void* memory) {
    if (memory == nullptr) return;
    Block* const block = static_cast<Block*>(memory) - 1;
    block->next = std::exchange(free_[block->size_class], block);
  }

  void* move(void* memory, std::size_t bytes) {
    const std::size_t had =
        memory == nullptr ? 0 : room((static_cast<Block*>(memory) - 1)->size_class);
    if (bytes <= had) return memory;
    void* const larger = take(bytes);
    if (larger == nullptr) return nullptr;
    if (had > 0) std::memcpy(larger, memory, had);
    give_back(memory);
    return larger;
  }

  static std::size_t room(std::size_t size_class) { return std::size_t{1} << size_class; }
  static Recycler& of(void* self) { return *static_cast<Recycler*>(self); }

  std::array<Block*, 64> free_{};
  nghttp2_mem functions_{
      this, [](std::size_t bytes, void* self) { return of(self).take(bytes); },
      [](void* memory, void* self) { of(self).give_back(memory); },
      [](std::size_t count, std::size_t bytes, void* self) -> void* {
        void* const memory = of(self).take(count * bytes);
        return memory == nullptr ? nullptr : std::memset(memory, 0, count * bytes);
      },
      [](void* memory, std::size_t bytes, void* self) { return of(self).move(memory, bytes); }};
};

}  // namespace gslice::echo
