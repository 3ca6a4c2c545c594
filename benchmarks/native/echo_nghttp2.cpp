// The mark that the native front-end is measured against: the leanest honest gRPC server on
// nghttp2. Whatever unary method is called, the request's message comes back as the response's,
// prefix and all, without being looked at. One thread, edge-triggered epoll; a DATA frame that is
// known to come is received where it belongs and sent from there; in the middle of a large message
// the kernel wakes nobody for a few bytes; nothing is allocated once it is warm.
//
// echo_nghttp2 PORT: listens on loopback (0: a free port), prints the port, and serves until its
// standard input closes. It trusts its clients: it is for benchmarks.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "echo_memory.hpp"

namespace gslice::echo {
namespace {

constexpr std::size_t kInboxBytes = 64 << 10;
constexpr std::size_t kSmallBytes = 4 << 10;     // up to here a copy is cheaper than a vector entry
constexpr std::size_t kWorthWaking = 32 << 10;   // what of a message is waited for together,
constexpr std::size_t kWaitedMost = 256 << 10;   // at least and at most,
constexpr std::int64_t kLongestNs = 1'000'000;   // and for how long
constexpr std::int32_t kWindow = (1 << 30) - 1;  // no client ever waits for one
constexpr std::size_t kFrameHeadBytes = 9;

// ---- one connection --------------------------------------------------------------------------

class Connection {
 public:
  Connection(int fd, Pool& pool, Recycler& memory, const nghttp2_session_callbacks* callbacks,
             const nghttp2_option* option)
      : fd_(fd), pool_(pool) {
    nghttp2_session_server_new3(&session_, callbacks, this, option, memory.functions());
    const std::array<nghttp2_settings_entry, 4> settings{{
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 4096},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindow},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1 << 20},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},  // one call after the other, not all at once
    }};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindow);
  }

  ~Connection() {
    nghttp2_session_del(session_);  // ends its streams
    recycle();
    close(fd_);
  }

  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Whether bytes may lie in the socket that nobody is woken for.
  bool waits() const { return waited_for_ > 1; }
  void wait_no_more() { wait_for(0); }

  // Reads and writes until the socket has, or takes, no more. False: it is over.
  bool serve() {
    bool drained = false;
    while (flush()) {
      if (drained || !outbox_.empty()) return true;
      if (!receive(drained)) return false;
    }
    return false;
  }

  static nghttp2_session_callbacks* callbacks();

 private:
  bool receive(bool& drained) {
    const std::size_t direct = current_ == nullptr ? 0 : std::min(expected_, current_->room());
    std::uint8_t* const place = direct == 0 ? nullptr : current_->end();
    const std::array<iovec, 2> parts{{{place, direct}, {inbox().data(), inbox().size()}}};
    const ssize_t got = direct == 0 ? read(fd_, inbox().data(), inbox().size())
                                    : readv(fd_, parts.data(), parts.size());
    if (got <= 0) {
      drained = true;
      return got < 0 && errno == EAGAIN;
    }
    const auto count = static_cast<std::size_t>(got);
    drained = count < direct + inbox().size();
    const std::size_t placed = std::min(count, direct);
    if (!feed(place, placed) || !feed(inbox().data(), count - placed)) return false;
    if (drained) wait_for(current_ == nullptr ? 0 : current_->missing());
    return true;
  }

  // Has the socket be readable when so many bytes have come, or at once for few: each time that
  // the server falls asleep costs its client a system call's time to wake it.
  void wait_for(std::size_t bytes) {
    const int wanted = bytes < kWorthWaking ? 1 : static_cast<int>(std::min(bytes, kWaitedMost));
    if (wanted == waited_for_) return;
    waited_for_ = wanted;
    setsockopt(fd_, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
  }

  bool feed(const std::uint8_t* bytes, std::size_t count) {
    return count == 0 || nghttp2_session_mem_recv(session_, bytes, count) >= 0;
  }

  bool flush() {
    do {
      if (!outbox_.send(fd_)) return false;
      if (!outbox_.empty()) return true;
      recycle();
      while (outbox_.has_room(kFrameHeadBytes + kSmallBytes)) {
        const std::uint8_t* bytes = nullptr;
        const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
        if (count < 0) return false;
        if (count == 0) break;
        outbox_.copy(bytes, static_cast<std::size_t>(count));
      }
    } while (!outbox_.empty());
    return nghttp2_session_want_read(session_) != 0;
  }

  // What was sent of ended calls may be overwritten now.
  void recycle() {
    for (Stream* stream : ended_) pool_.put(stream);
    ended_.clear();
  }

  static std::array<std::uint8_t, kInboxBytes>& inbox() {  // between two receives it is empty
    static std::array<std::uint8_t, kInboxBytes> bytes;
    return bytes;
  }

  Stream* stream(std::int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session_, id));
  }

  int begin_call(std::int32_t id) {
    return nghttp2_session_set_stream_user_data(session_, id, pool_.get());
  }

  void begin_data(const nghttp2_frame_hd& head) {
    current_ = stream(head.stream_id);
    expected_ = (head.flags & NGHTTP2_FLAG_PADDED) == 0 ? head.length : 0;
  }

  int take_data(const std::uint8_t* bytes, std::size_t count) {
    expected_ -= std::min(expected_, count);
    return current_ == nullptr || current_->take(bytes, count) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
  }

  int answer(std::int32_t id);
  ssize_t offer(Stream& stream, std::int32_t id, std::size_t room, std::uint32_t* flags);
  int send_data(Stream& stream, const std::uint8_t* head, std::size_t count);

  void end_call(std::int32_t id) {
    Stream* ended = stream(id);
    if (ended == nullptr) return;
    if (current_ == ended) current_ = nullptr;
    ended_.push_back(ended);
  }

  const int fd_;
  Pool& pool_;
  nghttp2_session* session_ = nullptr;
  Stream* current_ = nullptr;  // whose DATA frame is being received
  std::size_t expected_ = 0;   // what of it is still to come
  int waited_for_ = 1;         // bytes that make the socket readable
  std::vector<Stream*> ended_;
  Outbox outbox_;
};

template <std::size_t N, std::size_t M>
nghttp2_nv field(const char (&name)[N], const char (&value)[M]) {
  const auto bytes = [](const char* text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text));  // nghttp2 does not write
  };
  return {bytes(name), bytes(value), N - 1, M - 1,
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

int Connection::answer(std::int32_t id) {
  static const std::array head{field(":status", "200"), field("content-type", "application/grpc")};
  nghttp2_data_provider body{};
  body.source.ptr = stream(id);
  body.read_callback = [](nghttp2_session*, std::int32_t number, std::uint8_t*, std::size_t room,
                          std::uint32_t* flags, nghttp2_data_source* source, void* self) {
    return static_cast<Connection*>(self)->offer(*static_cast<Stream*>(source->ptr), number, room,
                                                 flags);
  };
  return nghttp2_submit_response(session_, id, head.data(), head.size(), &body);
}

ssize_t Connection::offer(Stream& stream, std::int32_t id, std::size_t room, std::uint32_t* flags) {
  static const nghttp2_nv status = field("grpc-status", "0");
  const std::size_t left = stream.received - stream.sent;
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (left > room) return static_cast<ssize_t>(room);
  *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
  const int submitted = nghttp2_submit_trailer(session_, id, &status, 1);
  return submitted == 0 ? static_cast<ssize_t>(left) : submitted;
}

int Connection::send_data(Stream& stream, const std::uint8_t* head, std::size_t count) {
  const bool small = count <= kSmallBytes;
  if (!outbox_.has_room(kFrameHeadBytes + (small ? count : 0))) return NGHTTP2_ERR_WOULDBLOCK;
  std::uint8_t* const bytes = stream.data.get() + stream.sent;
  outbox_.copy(head, kFrameHeadBytes);
  if (small)
    outbox_.copy(bytes, count);
  else
    outbox_.point(bytes, count);
  stream.sent += count;
  return 0;
}

nghttp2_session_callbacks* Connection::callbacks() {
  nghttp2_session_callbacks* made = nullptr;
  nghttp2_session_callbacks_new(&made);
  nghttp2_session_callbacks_set_on_begin_headers_callback(
      made, [](nghttp2_session*, const nghttp2_frame* frame, void* self) {
        return frame->headers.cat == NGHTTP2_HCAT_REQUEST
                   ? static_cast<Connection*>(self)->begin_call(frame->hd.stream_id)
                   : 0;
      });
  nghttp2_session_callbacks_set_on_begin_frame_callback(
      made, [](nghttp2_session*, const nghttp2_frame_hd* head, void* self) {
        if (head->type == NGHTTP2_DATA) static_cast<Connection*>(self)->begin_data(*head);
        return 0;
      });
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
      made,
      [](nghttp2_session*, std::uint8_t, std::int32_t, const std::uint8_t* bytes, std::size_t count,
         void* self) { return static_cast<Connection*>(self)->take_data(bytes, count); });
  nghttp2_session_callbacks_set_on_frame_recv_callback(
      made, [](nghttp2_session*, const nghttp2_frame* frame, void* self) {
        const bool of_call = frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS;
        return of_call && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0
                   ? static_cast<Connection*>(self)->answer(frame->hd.stream_id)
                   : 0;
      });
  nghttp2_session_callbacks_set_on_stream_close_callback(
      made, [](nghttp2_session*, std::int32_t id, std::uint32_t, void* self) {
        static_cast<Connection*>(self)->end_call(id);
        return 0;
      });
  nghttp2_session_callbacks_set_send_data_callback(
      made, [](nghttp2_session*, nghttp2_frame*, const std::uint8_t* head, std::size_t count,
               nghttp2_data_source* source, void* self) {
        return static_cast<Connection*>(self)->send_data(*static_cast<Stream*>(source->ptr), head,
                                                         count);
      });
  nghttp2_session_callbacks_set_data_source_read_length_callback(
      made,
      [](nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t connection_window,
         std::int32_t stream_window, std::uint32_t frame_max, void*) -> ssize_t {
        return std::min({connection_window, stream_window, static_cast<std::int32_t>(frame_max)});
      });
  return made;
}

// ---- the process -----------------------------------------------------------------------------

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

int listen_on(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int yes = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      bind(fd, any, size) != 0 || listen(fd, 4096) != 0 || getsockname(fd, any, &size) != 0)
    fail("echo_nghttp2: listen");
  std::printf("%u\n", ntohs(address.sin_port));
  std::fflush(stdout);
  return fd;
}

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

class Server {
 public:
  explicit Server(std::uint16_t port) : listener_(listen_on(port)) {
    watch(STDIN_FILENO, EPOLLIN, &input_);
    watch(listener_, EPOLLIN, this);
    nghttp2_option_new(&option_);
    nghttp2_option_set_no_closed_streams(option_, 1);
  }

  ~Server() {
    nghttp2_option_del(option_);
    nghttp2_session_callbacks_del(callbacks_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Until standard input closes.
  void run() {
    std::array<epoll_event, 64> events{};
    while (true) {
      const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()),
                                   waiting_.empty() ? -1 : kLongestNs / 1'000'000);
      for (int i = 0; i < count; ++i) {
        void* const mark = events[static_cast<std::size_t>(i)].data.ptr;
        if (mark == &input_) return;
        if (mark == this)
          accept();
        else
          serve(static_cast<Connection*>(mark));
      }
      if (!waiting_.empty() && now_ns() >= overdue_ns_) serve_waiting();
    }
  }

 private:
  void watch(int fd, std::uint32_t events, void* mark) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = mark;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) fail("echo_nghttp2: epoll_ctl");
  }

  void accept() {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    const int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    watch(fd, EPOLLIN | EPOLLOUT | EPOLLET,
          new Connection(fd, pool_, memory_, callbacks_, option_));
  }

  void serve(Connection* connection) {
    std::erase(waiting_, connection);
    if (!connection->serve()) {
      delete connection;
    } else if (connection->waits()) {
      if (waiting_.empty()) overdue_ns_ = now_ns() + kLongestNs;
      waiting_.push_back(connection);
    }
  }

  // A client that stopped in the middle of a message may have asked something else.
  void serve_waiting() {
    overdue_.swap(waiting_);
    for (Connection* connection : overdue_) {
      connection->wait_no_more();
      serve(connection);
    }
    overdue_.clear();
  }

  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  const int listener_;
  char input_ = 0;  // its address marks standard input
  nghttp2_session_callbacks* const callbacks_ = Connection::callbacks();
  nghttp2_option* option_ = nullptr;
  Pool pool_;
  Recycler memory_;
  std::vector<Connection*> waiting_, overdue_;
  std::int64_t overdue_ns_ = 0;
};

}  // namespace
}  // namespace gslice::echo

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: echo_nghttp2 PORT\n", stderr);
    return 2;
  }
  gslice::echo::Server(static_cast<std::uint16_t>(std::atoi(argv[1]))).run();
  return 0;
}
