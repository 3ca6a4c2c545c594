#include "grpc/server.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "wire/text.hpp"

namespace gslice::grpc {
namespace {

constexpr std::size_t kScratchBytes = 256 << 10;
constexpr std::uint64_t kDoorbell = 0, kBell = 1, kFirstId = 2;  // in epoll's events
constexpr int kAccepts = 64;                                     // before others have their turn
constexpr std::int64_t kWaitNs = 1'000'000;
constexpr std::int64_t kSweepNs = 1'000'000'000, kShortestSweepNs = 10'000'000;
constexpr std::int64_t kPauseNs = 50'000'000;  // without descriptors for more connections

// A client that has vanished is noticed: by probes while nothing is said, else by what it does not
// acknowledge.
void prepare(int socket) {
  const auto set = [&](int level, int option, int value) {
    ::setsockopt(socket, level, option, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 60);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

Status failed(std::string_view what, int error = errno) {
  const bool files = error == EMFILE || error == ENFILE;
  return Status::Error(Code::kResourceExhausted,
                       wire::concat("the gRPC server cannot ", what, ": ", std::strerror(error),
                                    files ? "; raise the limit of open files (ulimit -n)" : ""));
}

}  // namespace

Result<std::unique_ptr<Server>> Server::open(std::uint16_t index, Service::Limits limits,
                                             std::int64_t connection_age_ns,
                                             std::unique_ptr<Transports> transports) {
  std::unique_ptr<Server> server(
      new Server(index, limits, connection_age_ns, std::move(transports)));
  if (Status status = server->start(); !status.ok()) return status;
  return server;
}

Server::Server(std::uint16_t index, Service::Limits limits, std::int64_t connection_age_ns,
               std::unique_ptr<Transports> transports)
    : connection_age_ns_(connection_age_ns),
      transports_(std::move(transports)),
      service_(index, limits, pool_.memory(),
               [this](Connection& connection) {
                 if (!std::exchange(connection.waits_for_flush, true))
                   to_flush_.push_back(&connection);
               }),
      scratch_(kScratchBytes),
      next_id_(kFirstId) {}

Status Server::start() {
  epoll_ = Descriptor(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return failed("start: epoll");
  for (Descriptor* bell : {&doorbell_, &bell_}) {
    *bell = Descriptor(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!*bell) return failed("start: eventfd");
  }
  if (!desk().open()) return failed("start: eventfd");
  // Edge-triggered: every ring wakes, and nobody has to read it.
  if (!watch(doorbell_.get(), EPOLLIN | EPOLLET, kDoorbell) ||
      !watch(bell_.get(), EPOLLIN | EPOLLET, kBell))
    return failed("start: epoll");
  try {
    thread_ = std::thread([this] { loop(); });
  } catch (const std::system_error& error) {
    return failed("start: thread", error.code().value());
  }
  ::pthread_setname_np(thread_.native_handle(), "gslice-grpc");
  return Status::Ok();
}

void Server::stop() {
  if (!thread_.joinable()) return;
  run_task([this] { stopped_ = true; });
  thread_.join();
}

// ---- what others ask -------------------------------------------------------------------------

void Server::run_task(std::function<void()> task) {
  std::unique_lock lock(mutex_);
  tasks_.push_back(&task);
  ::eventfd_write(bell_.get(), 1);
  tasks_done_.wait(lock, [&] { return std::ranges::find(tasks_, &task) == tasks_.end(); });
}

void Server::do_tasks() {
  const std::scoped_lock lock(mutex_);
  if (tasks_.empty()) return;
  for (std::function<void()>* task : tasks_) (*task)();
  tasks_.clear();
  tasks_done_.notify_all();
}

Status Server::listen(Descriptor socket) {
  Status status;
  run_task([&] {
    const std::uint64_t id = next_id_++;
    if (watch(socket.get(), EPOLLIN, id))
      listeners_.emplace(id, Listener{std::move(socket)});
    else
      status = failed("wait for connections");
  });
  return status;
}

void Server::leave() {
  run_task([this] {
    for (const auto& [id, connection] : connections_) {
      connection->leave();
      service_.wants_flush(*connection);
    }
  });
}

void Server::drain() {
  run_task([this] { service_.drain(); });
}

void Server::close(std::int64_t timeout_ns) {
  leave();
  run_task([&] {
    listeners_.clear();
    close_at_ns_ = now_ns() + timeout_ns;
    next_sweep_ns_ = 0;
  });
}

// ---- the loop --------------------------------------------------------------------------------

void Server::loop() {
  while (!stopped_) turn();
  connections_.clear();
}

void Server::turn() {
  service_.frontend().ring();  // before answers are sent: pumps work meanwhile
  // What turns done from here on rings the doorbell.
  const bool answered = service_.take_done();
  flush_all();
  service_.frontend().ring();           // for what was taken because there is room for its answer
  std::array<epoll_event, 256> events;  // NOLINT: written by the kernel
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                 answered ? 0 : timeout_ms(now_ns()));
  do_tasks();
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 >= kFirstId) handle(event.data.u64, event.events);
  }
  const std::int64_t now = now_ns();
  service_.keep_time(now);
  if (now >= waiting_until_ns_) read_waiting();
  if (now >= next_sweep_ns_) sweep(now);
}

int Server::timeout_ms(std::int64_t now) const {
  const std::int64_t wait_ns =
      std::min({service_.next_due_ns(), next_sweep_ns_, waiting_until_ns_}) - now;
  return static_cast<int>(std::max<std::int64_t>(0, (wait_ns + 999'999) / 1'000'000));
}

bool Server::watch(int fd, std::uint32_t events, std::uint64_t id) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  return ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0 ||
         (errno == EEXIST && ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0);
}

void Server::handle(std::uint64_t id, std::uint32_t events) {
  if (const auto found = listeners_.find(id); found != listeners_.end())
    return accept(found->second);
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;  // ended by a task
  Connection& connection = *found->second;
  if ((events & EPOLLOUT) != 0 || connection.waits_to_read()) {
    if (connection.writable() == Io::kClosed || connection.over()) return end(id);
    watch_again(connection);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    read(connection);
  }
}

void Server::read(Connection& connection) {
  const Io io = connection.read(scratch_);
  service_.wants_flush(connection);
  if (io == Io::kClosed) return end(connection.id());
  if (!connection.waits()) return;
  if (waiting_.empty()) waiting_until_ns_ = now_ns() + kWaitNs;
  waiting_.push_back(connection.id());
}

// Whoever stopped in the middle of a message may have asked something else.
void Server::read_waiting() {
  waiting_until_ns_ = kNever;
  for (const std::uint64_t id : std::exchange(waiting_, {})) {
    const auto found = connections_.find(id);
    if (found == connections_.end() || !found->second->waits()) continue;
    found->second->wait_no_more();
    read(*found->second);
  }
}

// ---- connections -----------------------------------------------------------------------------

void Server::accept(Listener& listener) {
  for (int i = 0; i < kAccepts; ++i) {
    Descriptor socket(
        ::accept4(listener.socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
        pause(listener);
      return;
    }
    prepare(socket.get());
    auto transport = transports_->accept(std::move(socket));
    if (transport == nullptr) continue;
    const std::uint64_t id = next_id_++;
    auto connection = std::make_unique<Connection>(id, std::move(transport), service_, now_ns());
    if (!watch(connection->fd(), EPOLLIN, id)) continue;
    service_.wants_flush(*connection);
    connections_.emplace(id, std::move(connection));
  }
}

// The connection stays in the queue; level-triggered, it would wake us all the time.
void Server::pause(Listener& listener) {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener.socket.get(), nullptr);
  listener.paused_until_ns = now_ns() + kPauseNs;
  next_sweep_ns_ = std::min(next_sweep_ns_, listener.paused_until_ns);
}

void Server::flush(Connection& connection) {
  const bool was_blocked = connection.blocked();
  if (was_blocked) return;
  if (connection.flush() == Io::kClosed || connection.over())
    ended_.push_back(connection.id());
  else if (connection.blocked())
    watch_again(connection);
}

void Server::watch_again(const Connection& connection) {
  const bool until_writable = connection.blocked() && !connection.waits_to_read();
  watch(connection.fd(), until_writable ? EPOLLIN | EPOLLOUT : EPOLLIN, connection.id());
}

// Sending ends calls, which may have others send.
void Server::flush_all() {
  while (!to_flush_.empty()) {
    Connection& connection = *to_flush_.back();
    to_flush_.pop_back();
    connection.waits_for_flush = false;
    flush(connection);
  }
  for (const std::uint64_t id : std::exchange(ended_, {})) end(id);
}

void Server::end(std::uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  std::erase(to_flush_, found->second.get());
  const std::unique_ptr<Connection> gone = std::move(found->second);
  connections_.erase(found);
  std::erase(to_flush_, gone.get());
}

void Server::sweep(std::int64_t now) {
  next_sweep_ns_ = now + std::clamp(connection_age_ns_ / 4, kShortestSweepNs, kSweepNs);
  for (auto& [id, listener] : listeners_) {
    if (listener.paused_until_ns == 0) continue;
    if (listener.paused_until_ns <= now)  // the kernel may have no memory for it yet
      listener.paused_until_ns = watch(listener.socket.get(), EPOLLIN, id) ? 0 : now + kPauseNs;
    if (listener.paused_until_ns != 0)
      next_sweep_ns_ = std::min(next_sweep_ns_, listener.paused_until_ns);
  }
  const bool close_all = close_at_ns_ != 0 && close_at_ns_ <= now;
  if (close_at_ns_ > now) next_sweep_ns_ = std::min(next_sweep_ns_, close_at_ns_);
  for (const auto& [id, connection] : connections_) {
    if (close_all || connection->is_silent(now)) ended_.push_back(id);
    if (!connection->is_of_age(connection_age_ns_, now)) continue;
    connection->leave();
    service_.wants_flush(*connection);
  }
  for (const std::uint64_t id : std::exchange(ended_, {})) end(id);
}

}  // namespace gslice::grpc
