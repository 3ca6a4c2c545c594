// A gRPC client of tests: nghttp2's client session on a socket, which does what it is told and no
// more, such as to stop reading, or to send half a message.
#pragma once

#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "check.hpp"
#include "grpc/descriptor.hpp"

namespace gslice::test {

inline constexpr std::string_view kInferPath = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr std::string_view kStreamPath = "/inference.GRPCInferenceService/ModelStreamInfer";

// A message as DATA has it.
inline std::string framed(std::string_view message, bool compressed = false) {
  std::string out(1, static_cast<char>(compressed));
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(message.size() >> shift);
  return out.append(message);
}

class GrpcClient {
 public:
  struct Answer {
    std::map<std::string, std::string> headers;  // and trailers
    std::string body;
    bool ended = false;
    std::uint32_t reset = NGHTTP2_NO_ERROR;

    int status() const {
      const auto found = headers.find("grpc-status");
      return found == headers.end() ? -1 : std::stoi(found->second);
    }
    std::vector<std::string> messages() const {
      std::vector<std::string> out;
      for (std::size_t at = 0; at < body.size();) {
        CHECK(body.size() - at >= 5 && body[at] == 0);
        std::size_t bytes = 0;
        for (std::size_t i = 1; i < 5; ++i)
          bytes = bytes << 8 | static_cast<unsigned char>(body[at + i]);
        CHECK(body.size() - at - 5 >= bytes);
        out.push_back(body.substr(at + 5, bytes));
        at += 5 + bytes;
      }
      return out;
    }
  };

  using Fields = std::vector<std::pair<std::string, std::string>>;

  // `window_bytes`: how much of an answer may come, which is never more. `idle`: called while
  // nothing comes, instead of waiting for the socket.
  explicit GrpcClient(grpc::Descriptor socket, std::uint32_t window_bytes = 1 << 30,
                      std::function<void()> idle = nullptr)
      : socket_(std::move(socket)), idle_(std::move(idle)) {
    ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session* session = nullptr;
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_session_client_new2(&session, callbacks, this, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    session_.reset(session);
    const nghttp2_settings_entry window{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window_bytes};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, &window, 1);
    nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, 1 << 30);
  }

  // ---- calls ----
  // Begins a call, of which nothing has been sent yet.
  std::int32_t begin(std::string_view path = kInferPath, const Fields& more = {}) {
    Fields fields{{":method", "POST"},          {":scheme", "http"},
                  {":path", std::string(path)}, {":authority", "test"},
                  {"te", "trailers"},           {"content-type", "application/grpc"}};
    for (const auto& [name, value] : more) {
      const auto known =
          std::ranges::find(fields, name, &std::pair<std::string, std::string>::first);
      known == fields.end() ? fields.emplace_back(name, value) : * known = {name, value};
    }
    std::vector<nghttp2_nv> list;
    for (const auto& [name, value] : fields)
      list.push_back(
          {bytes_of(name), bytes_of(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
    const nghttp2_data_provider provider{{.ptr = this}, read_data};
    const std::int32_t stream = nghttp2_submit_request(session_.get(), nullptr, list.data(),
                                                       list.size(), &provider, nullptr);
    CHECK(stream > 0);
    streams_[stream];
    return stream;
  }
  // More of its DATA; `end`: that was all.
  void send(std::int32_t stream, std::string_view bytes, bool end = false) {
    Stream& each = streams_.at(stream);
    each.out.append(bytes);
    each.end = end;
    nghttp2_session_resume_data(session_.get(), stream);
    step();
  }
  std::int32_t call(std::string_view message, const Fields& more = {},
                    std::string_view path = kInferPath) {
    const std::int32_t stream = begin(path, more);
    send(stream, framed(message), true);
    return stream;
  }
  void reset(std::int32_t stream, std::uint32_t error = NGHTTP2_CANCEL) {
    nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, stream, error);
    step();
  }
  const Answer& seen(std::int32_t stream) { return streams_.at(stream).answer; }
  // Waits for the end.
  const Answer& answer(std::int32_t stream) {
    until([&] { return seen(stream).ended; });
    return seen(stream);
  }

  // ---- the connection ----
  void until(const std::function<bool()>& done) {
    constexpr int kPatienceMs = 20'000;
    const auto ends_ns = now_ns() + std::int64_t{kPatienceMs} * 1'000'000;
    while (step(), !done()) {
      CHECK(!closed_);  // or what is waited for will not come
      CHECK(now_ns() < ends_ns);
      if (idle_) {
        idle_();
        continue;
      }
      pollfd ready{socket_.get(), POLLIN, 0};
      if (nghttp2_session_want_write(session_.get()) != 0 || !out_.empty()) ready.events |= POLLOUT;
      ::poll(&ready, 1, 50);
    }
  }
  // Sends what there is to send, and reads what has come, unless it is `deaf`.
  void step() {
    send_out();
    std::array<std::uint8_t, 64 << 10> room;  // NOLINT: written by recv
    while (!deaf && !closed_) {
      const ssize_t count = ::recv(socket_.get(), room.data(), room.size(), 0);
      if (count < 0 && errno == EAGAIN) break;
      if (count <= 0 || nghttp2_session_mem_recv(session_.get(), room.data(),
                                                 static_cast<std::size_t>(count)) < 0)
        closed_ = true;
    }
    send_out();
  }
  void ping() { nghttp2_submit_ping(session_.get(), NGHTTP2_FLAG_NONE, nullptr); }
  // Bytes that nghttp2 would not send.
  void send_raw(std::string_view bytes) {
    send_out();
    out_.append(bytes);
    send_out();
  }
  bool closed() const { return closed_; }
  bool going() const { return going_; }  // the server has said so
  int fd() const { return socket_.get(); }
  void drop() {
    socket_ = grpc::Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC)), closed_ = true;
  }

  bool deaf = false;

 private:
  struct Stream {
    std::string out;
    std::size_t sent = 0;  // of it
    bool end = false;
    Answer answer;
  };
  struct FreeSession {
    void operator()(nghttp2_session* session) const { nghttp2_session_del(session); }
  };

  static std::uint8_t* bytes_of(const std::string& text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
  }
  static std::string text(const std::uint8_t* bytes, std::size_t length) {
    return {reinterpret_cast<const char*>(bytes), length};
  }
  static GrpcClient& self(void* user) { return *static_cast<GrpcClient*>(user); }

  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_bytes, const std::uint8_t* value, std::size_t value_bytes,
                       std::uint8_t, void* user) {
    self(user).streams_[frame->hd.stream_id].answer.headers[text(name, name_bytes)] =
        text(value, value_bytes);
    return 0;
  }
  static int on_data(nghttp2_session*, std::uint8_t, std::int32_t stream, const std::uint8_t* bytes,
                     std::size_t length, void* user) {
    self(user).streams_[stream].answer.body += text(bytes, length);
    return 0;
  }
  static int on_close(nghttp2_session*, std::int32_t stream, std::uint32_t error, void* user) {
    Answer& answer = self(user).streams_[stream].answer;
    answer.ended = true;
    answer.reset = error;
    return 0;
  }
  static int on_frame(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type == NGHTTP2_GOAWAY) self(user).going_ = true;
    return 0;
  }
  static ssize_t read_data(nghttp2_session*, std::int32_t stream, std::uint8_t* room,
                           std::size_t length, std::uint32_t* flags, nghttp2_data_source* source,
                           void*) {
    Stream& each = static_cast<GrpcClient*>(source->ptr)->streams_[stream];
    if (each.out.empty() && !each.end) return NGHTTP2_ERR_DEFERRED;
    const std::size_t bytes = each.out.copy(reinterpret_cast<char*>(room), length, each.sent);
    each.sent += bytes;
    if (each.sent == each.out.size()) each.out.clear(), each.sent = 0;
    if (each.out.empty() && each.end) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(bytes);
  }

  void send_out() {
    while (!closed_) {
      if (out_.empty()) {
        const std::uint8_t* bytes = nullptr;
        const ssize_t count = nghttp2_session_mem_send(session_.get(), &bytes);
        CHECK(count >= 0);
        if (count == 0) return;
        out_.assign(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
      }
      const ssize_t sent = ::send(socket_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) closed_ = true;
      if (sent < 0) return;
      out_.erase(0, static_cast<std::size_t>(sent));
    }
  }

  grpc::Descriptor socket_;
  std::function<void()> idle_;
  std::unique_ptr<nghttp2_session, FreeSession> session_;
  std::map<std::int32_t, Stream> streams_;
  std::string out_;
  bool closed_ = false;
  bool going_ = false;
};

}  // namespace gslice::test
