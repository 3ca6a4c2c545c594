// The native front-end's transport served inside one test process: the loop in its thread, with a
// worker in another; or one connection in the test's own thread, which turns it by hand.
#pragma once

#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "frontend_bench.hpp"
#include "grpc/connection.hpp"
#include "grpc/memory_pool.hpp"
#include "grpc/server.hpp"
#include "grpc/service.hpp"
#include "grpc_client.hpp"

namespace gslice::test {

// x FP32 [-1, 1024] -> y the same: a row has 4 KiB, so that requests of any size can be made.
inline Signature wide_signature() {
  return {
      {tensor("x", DType::kFp32, {-1, 1024})}, {tensor("y", DType::kFp32, {-1, 1024})}, 1024, {}};
}
inline constexpr std::size_t kRowBytes = 4096;

// What its rows are made of, so that one answer is not another's.
inline std::string wide_tensor(std::int64_t rows, char fill = 'x') {
  return std::string(static_cast<std::size_t>(rows) * kRowBytes, fill);
}
inline std::string wide_request(std::int64_t rows, char fill = 'x', std::string_view id = "") {
  Proto message;
  message.text(1, "echo");
  if (!id.empty()) message.text(3, id);
  return message.message(5, input("x", "FP32", {rows, 1024}))
      .text(7, wide_tensor(rows, fill))
      .str();
}

inline std::shared_ptr<Segment> wide_segment(std::uint32_t slots, std::int64_t rows_max) {
  return make_segment(slots, 2 * kRowBytes * static_cast<std::uint64_t>(rows_max));
}

// Pulls and echoes, as a worker's pump does, while it is not held.
class Echoer {
 public:
  Echoer(std::shared_ptr<Segment> segment, const Signature& signature, int doorbell)
      : segment_(std::move(segment)),
        instance_(ok(segment_->add_instance())),
        signature_(signature),
        doorbell_(doorbell) {
    segment_->flip(kNobody, instance_);
    thread_ = std::thread([this] { run(); });
  }
  ~Echoer() {
    stopped_ = true;
    segment_->ring_pullers();
    thread_.join();
  }

  std::size_t served() const { return served_; }
  // From when this returns until `release`, nothing more is claimed.
  void hold() { held_.lock(); }
  void release() {
    held_.unlock();
    segment_->ring_pullers();
  }

 private:
  void run() {
    while (!stopped_) {
      const std::uint32_t seen = segment_->doorbell(instance_);
      if (!serve()) segment_->wait(instance_, seen, kNever);
    }
  }
  bool serve() {
    const std::scoped_lock lock(held_);
    std::vector<std::uint16_t> wake;
    const std::size_t count = echo_batch(*segment_, instance_, signature_, wake);
    served_ += count;
    if (!wake.empty()) ::eventfd_write(doorbell_, 1);
    return count != 0;
  }

  std::shared_ptr<Segment> segment_;
  std::uint16_t instance_;
  Signature signature_;
  int doorbell_;
  std::mutex held_;
  std::atomic<std::size_t> served_ = 0;
  std::atomic<bool> stopped_ = false;
  std::thread thread_;
};

inline constexpr grpc::Service::Limits kLimits{8 << 20, 32 << 20};

class ServerBench {
 public:
  explicit ServerBench(
      std::shared_ptr<Segment> served = wide_segment(64, 64),
      grpc::Service::Limits limits = kLimits,
      std::unique_ptr<grpc::Transports> transports = std::make_unique<grpc::Transports>())
      : segment(std::move(served)),
        opened(ok(grpc::Server::open(0, limits, kNever / 4, std::move(transports)))),
        worker(segment, wide_signature(), server.doorbell()) {
    const Status added = server.run([&](grpc::Service& service) {
      return service.frontend().add_function("echo", "1", segment, wide_signature(), 0);
    });
    CHECK(added.ok());
    grpc::Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address_;
    CHECK(::bind(listener.get(), as_sockaddr(), bytes) == 0);
    CHECK(::listen(listener.get(), 64) == 0);
    CHECK(::getsockname(listener.get(), as_sockaddr(), &bytes) == 0);
    CHECK(server.listen(std::move(listener)).ok());
  }

  grpc::Descriptor connect() {
    grpc::Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(::connect(socket.get(), as_sockaddr(), sizeof address_) == 0);
    return socket;
  }
  GrpcClient client(std::uint32_t window_bytes = 1 << 30) {
    return GrpcClient(connect(), window_bytes);
  }

  std::size_t calls() {
    return server.run([](grpc::Service& service) { return service.calls(); });
  }
  std::size_t memory_bytes() {
    return server.run([](grpc::Service& service) { return service.memory_bytes(); });
  }
  std::size_t free() { return free_slots(*segment); }
  // Waits for what the loop and the worker still have to do.
  template <typename Done>
  void until(Done&& done) {
    const std::int64_t ends_ns = now_ns() + 20'000'000'000;
    while (!done()) {
      CHECK(now_ns() < ends_ns);
      std::this_thread::yield();
    }
  }
  // Nothing is left behind: no call, slot, or byte of memory.
  void expect_idle() {
    until([&] { return calls() == 0 && memory_bytes() == 0 && free() == segment->slot_count(); });
    CHECK_EQ(server.run([](grpc::Service& s) { return s.frontend().in_flight(); }), 0u);
  }

  std::shared_ptr<Segment> segment;
  std::unique_ptr<grpc::Server> opened;
  grpc::Server& server = *opened;
  Echoer worker;

 private:
  sockaddr* as_sockaddr() { return reinterpret_cast<sockaddr*>(&address_); }

  sockaddr_in address_{};
};

// gRPC's statuses
inline constexpr int kInvalidArgument = 3, kDeadlineExceeded = 4, kResourceExhausted = 8,
                     kUnimplemented = 12, kInternal = 13, kUnavailable = 14;

// Whether it is the answer to `wide_request(rows, fill)`.
inline bool echoes(const std::string& message, std::int64_t rows, char fill) {
  const std::string tensor = wide_tensor(rows, fill);
  return message.size() > tensor.size() && message.size() < tensor.size() + 200 &&
         message.ends_with(tensor);
}

inline std::size_t count_of(ServerBench& bench, SlotState state) {
  return bench.segment->count_states()[static_cast<std::size_t>(state)];
}

inline constexpr std::int64_t kLargeRows = 500;  // more of them than a socket takes

// Calls with large answers, of which the client reads nothing from then on.
inline std::vector<std::int32_t> call_and_read_nothing(ServerBench& bench, GrpcClient& client,
                                                       int count) {
  bench.worker.hold();
  std::vector<std::int32_t> streams;
  for (int i = 0; i < count; ++i) streams.push_back(client.call(wide_request(kLargeRows, 's')));
  client.until([&] { return count_of(bench, SlotState::kQueued) == streams.size(); });
  client.deaf = true;
  bench.worker.release();
  return streams;
}

// One connection in the test's own thread, with a worker that serves when it is told to.
class ConnectionBench {
 public:
  explicit ConnectionBench(std::shared_ptr<Segment> served = wide_segment(64, 64),
                           grpc::Service::Limits limits = kLimits)
      : segment(std::move(served)),
        service(0, limits, pool.memory(), [](grpc::Connection&) {}),
        instance_(ok(segment->add_instance())) {
    segment->flip(kNobody, instance_);
    CHECK(service.frontend().add_function("echo", "1", segment, signature_, 0).ok());
  }

  // Instead of the connection that was; the client's end of it.
  grpc::Descriptor connect() {
    std::array<int, 2> ends{};
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    connection.reset();
    connection = std::make_unique<grpc::Connection>(
        1, std::make_unique<grpc::Transport>(grpc::Descriptor(ends[0])), service, now_ns());
    return grpc::Descriptor(ends[1]);
  }
  // All that the loop does in a turn. False: the connection is over.
  bool turn() {
    service.frontend().ring();
    service.take_done();
    bool open =
        (connection->blocked() ? connection->writable() : connection->flush()) != grpc::Io::kClosed;
    open = open && !connection->over() && connection->read(scratch_) != grpc::Io::kClosed;
    service.keep_time(now_ns());
    return open;
  }
  std::size_t serve() {
    wake_.clear();
    return echo_batch(*segment, instance_, signature_, wake_);
  }
  // Nothing is left of the connection that was.
  bool idle() {
    return service.calls() == 0 && service.memory_bytes() == 0 &&
           service.frontend().in_flight() == 0 && free_slots(*segment) == segment->slot_count();
  }

  std::shared_ptr<Segment> segment;
  grpc::MemoryPool pool;
  grpc::Service service;
  std::unique_ptr<grpc::Connection> connection;

 private:
  Signature signature_ = wide_signature();
  std::uint16_t instance_;
  std::vector<std::byte> scratch_{256 << 10};
  std::vector<std::uint16_t> wake_;
};

}  // namespace gslice::test
