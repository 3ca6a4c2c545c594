// The loop: one thread that has a front-end's connections, calls and data path to itself. Others
// ask it to do things (`run`), and learn from it by its desk.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "grpc/connection.hpp"
#include "grpc/memory_pool.hpp"
#include "grpc/service.hpp"
#include "grpc/transport.hpp"

namespace gslice::grpc {

class Server {
 public:
  // After about `connection_age_ns` a client is told to connect anew; what it has begun goes on.
  // kResourceExhausted: the kernel has no descriptor left for it.
  static Result<std::unique_ptr<Server>> open(std::uint16_t index, Service::Limits limits,
                                              std::int64_t connection_age_ns,
                                              std::unique_ptr<Transports> transports);
  ~Server() { stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Rings when a function's worker has an answer; workers are given it.
  int doorbell() const { return doorbell_.get(); }
  Desk& desk() { return service_.desk(); }

  // Runs `work(Service&)` in the loop's thread and returns what it returns.
  template <typename Work>
  auto run(Work&& work) -> std::invoke_result_t<Work, Service&> {
    using Value = std::invoke_result_t<Work, Service&>;
    if constexpr (std::is_void_v<Value>) {
      run_task([&] { work(service_); });
    } else {
      std::optional<Value> value;
      run_task([&] { value.emplace(work(service_)); });
      return std::move(*value);
    }
  }

  // Accepts the connections of a listening socket. kResourceExhausted: the kernel does not tell of
  // them.
  Status listen(Descriptor socket);
  // The clients that are there are told so now.
  void leave();
  // Refuses requests; what was taken is answered. `desk` tells when that is done.
  void drain();
  // Ends all connections, and the thread; nothing may be asked any more.
  void stop();
  // Ends the listeners, and every connection once what it has to send is sent, or after
  // `timeout_ns`.
  void close(std::int64_t timeout_ns);

 private:
  struct Listener {
    Descriptor socket;
    std::int64_t paused_until_ns = 0;
  };

  Server(std::uint16_t index, Service::Limits limits, std::int64_t connection_age_ns,
         std::unique_ptr<Transports> transports);
  Status start();
  void run_task(std::function<void()> task);
  void loop();
  void turn();
  void do_tasks();
  void accept(Listener& listener);
  void pause(Listener& listener);
  void handle(std::uint64_t id, std::uint32_t events);
  void read(Connection& connection);
  void read_waiting();
  void flush(Connection& connection);
  void flush_all();
  void watch_again(const Connection& connection);
  void end(std::uint64_t id);
  void sweep(std::int64_t now_ns);
  int timeout_ms(std::int64_t now_ns) const;
  bool watch(int fd, std::uint32_t events, std::uint64_t id);

  const std::int64_t connection_age_ns_;
  MemoryPool pool_;
  std::unique_ptr<Transports> transports_;
  Descriptor epoll_;
  Descriptor doorbell_;
  Descriptor bell_;  // rings when there are tasks
  Service service_;
  std::vector<std::byte> scratch_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  std::unordered_map<std::uint64_t, Listener> listeners_;
  std::vector<Connection*> to_flush_;
  std::vector<std::uint64_t> ended_;
  std::vector<std::uint64_t> waiting_;  // connections of which more should come at once
  std::int64_t waiting_until_ns_ = kNever;
  std::uint64_t next_id_;
  std::int64_t next_sweep_ns_ = 0;
  std::int64_t close_at_ns_ = 0;  // 0: not closing
  bool stopped_ = false;

  std::mutex mutex_;
  std::condition_variable tasks_done_;
  std::vector<std::function<void()>*> tasks_;
  std::thread thread_;
};

}  // namespace gslice::grpc
