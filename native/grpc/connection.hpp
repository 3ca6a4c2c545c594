// An HTTP/2 connection: nghttp2 between a socket and the calls of a service.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "grpc/call.hpp"
#include "grpc/outbox.hpp"
#include "grpc/scatter.hpp"
#include "grpc/transport.hpp"

namespace gslice::grpc {

class Service;

class Connection {
 public:
  // `id`: what its owner knows it by.
  Connection(std::uint64_t id, std::unique_ptr<Transport> transport, Service& service,
             std::int64_t now_ns);
  ~Connection();  // its calls are closed
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  std::uint64_t id() const { return id_; }
  int fd() const { return transport_->fd(); }
  // Reads what is there, by `scratch`, and has it handled. kClosed: nothing more will come.
  Io read(std::span<std::byte> scratch);
  // Sends what there is. kAgain: the socket takes no more now; call `writable` when it does.
  Io flush();
  Io writable();
  bool blocked() const { return blocked_; }
  // Blocked until there is something to read.
  bool waits_to_read() const { return blocked_ && transport_->waits_to_read(); }
  // Whether bytes may lie in the socket that do not make it readable, for more should come at once.
  bool waits() const { return waited_bytes_ > 1; }
  void wait_no_more() { wait_for(1); }
  bool over() const;
  // Whether the client has said nothing that makes sense since it connected, long ago.
  bool is_silent(std::int64_t now_ns) const;
  bool is_of_age(std::int64_t age_ns, std::int64_t now_ns) const;
  // Tells the client to connect anew for its next calls; closes when the last one has ended.
  void leave();

  // ---- for the service ----
  // Something was added to what the call sends, or it has finished.
  void answer(Call& call);
  void reset(Call& call, std::uint32_t error);
  // When something went last that the call's answers had to wait for.
  std::int64_t moved_ns(const Call& call) const;
  // Of a call's data, so much more may be sent.
  void consumed(Call& call, std::size_t bytes);

  bool waits_for_flush = false;  // the owner's

 private:
  struct Callbacks;

  struct FreeSession {
    void operator()(nghttp2_session* session) const { nghttp2_session_del(session); }
  };

  Io read_some(std::span<std::byte> scratch, std::size_t& bytes, std::size_t& room);
  void wait_for(std::size_t bytes);
  void submit_answer(Call& call);
  void submit_trailers(Call& call);
  ssize_t plan_data(Call& call, std::size_t length, std::uint32_t& flags);
  void gather(Call& call, std::span<const std::byte> frame_header, std::size_t length);
  void recycle();

  std::uint64_t id_;
  std::unique_ptr<Transport> transport_;
  Service& service_;
  Outbox outbox_;
  std::vector<std::unique_ptr<Outgoing>> spent_;  // handed to the outbox, until it is flushed
  std::vector<Call*> relieved_;                   // of an answer, and more requests wait
  Call* receiving_ = nullptr;                     // whose DATA frame is being received
  Frames frames_;                                 // the last one
  std::size_t waited_bytes_ = 1;                  // that make the socket readable
  std::int64_t since_ns_;
  std::int64_t sent_ns_ = 0;  // when an answer's bytes went last
  bool greeted_ = false;
  bool blocked_ = false;
  bool leaving_ = false;
  bool closed_ = false;
  std::unique_ptr<nghttp2_session, FreeSession> session_;
};

}  // namespace gslice::grpc
