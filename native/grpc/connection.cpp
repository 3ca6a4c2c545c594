#include "grpc/connection.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "grpc/headers.hpp"
#include "grpc/service.hpp"

namespace gslice::grpc {
namespace {

constexpr std::uint32_t kStreams = 1024;
constexpr std::uint32_t kStreamWindowBytes = 4 << 20;  // a large request in one go
constexpr std::int32_t kWindowBytes = 64 << 20;
constexpr std::uint32_t kFrameBytes = 256 << 10;
constexpr std::uint32_t kHeaderBytes = 16 << 10;  // of a call
constexpr std::size_t kLendBytes = 4 << 10;  // less is copied: a piece costs the kernel as much
constexpr std::int64_t kGreetingNs = 10'000'000'000;
constexpr std::size_t kWorthWaking = 64 << 10;  // what is missing of a message, if less, comes soon
constexpr std::size_t kWaitedMost = 1 << 20;
constexpr int kReads = 4;  // before others have their turn
// What is read first: enough to see of what kind more of it is, and that belongs elsewhere.
constexpr std::size_t kFirstBytes = 48 << 10;
constexpr std::size_t kQueued = 10'000;  // frames for a client that does not read
// Clients whose deadlines pass reset their calls: many a second is no attack.
constexpr std::uint64_t kResets = 10'000, kResetsPerSecond = 2'000;

std::string_view text(const std::uint8_t* bytes, std::size_t length) {
  return {reinterpret_cast<const char*>(bytes), length};
}

}  // namespace

// ---- nghttp2's callbacks ---------------------------------------------------------------------

struct Connection::Callbacks {
  static Connection& self(void* user) { return *static_cast<Connection*>(user); }
  static Call* call_of(nghttp2_session* session, std::int32_t stream) {
    return static_cast<Call*>(nghttp2_session_get_stream_user_data(session, stream));
  }

  static int begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    Connection& connection = self(user);
    Call& call = connection.service_.begin(connection, frame->hd.stream_id);
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, &call);
    return 0;
  }

  static int header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_bytes, const std::uint8_t* value, std::size_t value_bytes,
                    std::uint8_t, void* user) {
    Call* call = call_of(session, frame->hd.stream_id);
    if (call == nullptr) return 0;
    call->header_bytes += name_bytes + value_bytes + 32;  // as RFC 9113 counts them
    if (call->header_bytes > kHeaderBytes) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    self(user).service_.header(*call, text(name, name_bytes), text(value, value_bytes));
    return 0;
  }

  static int frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Connection& connection = self(user);
    if (frame->hd.type == NGHTTP2_SETTINGS) connection.greeted_ = true;
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 &&
        connection.leaving_)
      nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE,
                            nghttp2_session_get_last_proc_stream_id(session), NGHTTP2_NO_ERROR,
                            nullptr, 0);
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    Call* call = call_of(session, frame->hd.stream_id);
    if (call == nullptr) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
      connection.service_.opened(*call);
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) connection.service_.half_closed(*call);
    return 0;
  }

  static int begin_frame(nghttp2_session*, const nghttp2_frame_hd* head, void* user) {
    if (head->type != NGHTTP2_DATA) return 0;
    Connection& connection = self(user);
    connection.receiving_ = nullptr;
    Frames& frames = connection.frames_;
    frames = {.stream = head->stream_id,
              .frame_bytes = head->length,
              .left_bytes = (head->flags & NGHTTP2_FLAG_PADDED) == 0 ? head->length : 0,
              .repeat = head->stream_id == frames.stream && head->length == frames.frame_bytes};
    return 0;
  }

  static int data(nghttp2_session* session, std::uint8_t, std::int32_t stream,
                  const std::uint8_t* bytes, std::size_t length, void* user) {
    nghttp2_session_consume_connection(session, length);
    Connection& connection = self(user);
    Frames& frames = connection.frames_;
    frames.left_bytes -= std::min(frames.left_bytes, length);
    Call* call = call_of(session, stream);
    connection.receiving_ = call;  // only now: a frame that is ignored is not told of
    if (call == nullptr) return 0;
    connection.service_.received(*call, std::as_bytes(std::span(bytes, length)));
    return 0;
  }

  static int sent(nghttp2_session* session, const nghttp2_frame* frame, void*) {
    if (frame->hd.type != NGHTTP2_HEADERS || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
      return 0;
    // Whoever was answered before he had sent everything need not send the rest.
    const Call* call = call_of(session, frame->hd.stream_id);
    if (call != nullptr && !call->half_closed)
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
  }

  static int closed(nghttp2_session* session, std::int32_t stream, std::uint32_t, void* user) {
    Call* call = call_of(session, stream);
    if (call == nullptr) return 0;
    Connection& connection = self(user);
    if (connection.receiving_ == call) connection.receiving_ = nullptr;
    for (auto& outgoing : call->out) connection.spent_.push_back(std::move(outgoing));
    call->out.clear();
    std::erase(connection.relieved_, call);
    connection.service_.closed(*call);
    return 0;
  }

  static ssize_t send(nghttp2_session*, const std::uint8_t* bytes, std::size_t length, int,
                      void* user) {
    Outbox& outbox = self(user).outbox_;
    if (outbox.full()) return NGHTTP2_ERR_WOULDBLOCK;
    outbox.copy(std::as_bytes(std::span(bytes, length)));
    return static_cast<ssize_t>(length);
  }

  static ssize_t read_data(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t length,
                           std::uint32_t* flags, nghttp2_data_source* source, void* user) {
    return self(user).plan_data(*static_cast<Call*>(source->ptr), length, *flags);
  }

  static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* header,
                       std::size_t length, nghttp2_data_source* source, void* user) {
    Connection& connection = self(user);
    Call& call = *static_cast<Call*>(source->ptr);
    if (connection.outbox_.full()) return NGHTTP2_ERR_WOULDBLOCK;
    if (length > 0 && call.out.empty()) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // abandoned
    constexpr std::size_t kFrameHeaderBytes = 9;
    connection.gather(call, std::as_bytes(std::span(header, kFrameHeaderBytes)), length);
    return 0;
  }

  static ssize_t frame_length(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t window,
                              std::int32_t stream_window, std::uint32_t frame_max_bytes, void*) {
    return std::min<ssize_t>({window, stream_window, frame_max_bytes, kFrameBytes});
  }

  static nghttp2_session* session(Connection& connection) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, frame);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, begin_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, data);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, closed);
    nghttp2_session_callbacks_set_send_callback(callbacks, send);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, frame_length);
    nghttp2_option* option = nullptr;
    nghttp2_option_new(&option);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_stream_reset_rate_limit(option, kResets, kResetsPerSecond);
    nghttp2_session* session = nullptr;
    nghttp2_session_server_new3(&session, callbacks, &connection, option,
                                connection.service_.memory());
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return session;
  }
};

// ---- life ------------------------------------------------------------------------------------

Connection::Connection(std::uint64_t id, std::unique_ptr<Transport> transport, Service& service,
                       std::int64_t now_ns)
    : id_(id),
      transport_(std::move(transport)),
      service_(service),
      since_ns_(now_ns),
      session_(Callbacks::session(*this)) {
  const std::array<nghttp2_settings_entry, 5> settings{{
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kStreams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindowBytes},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kFrameBytes},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kHeaderBytes},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},  // answers one after the other, not all at once
  }};
  nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, 0, kWindowBytes);
}

Connection::~Connection() {
  session_.reset();  // does not tell of the streams that it ends
  service_.lost(*this);
  recycle();
}

Io Connection::read(std::span<std::byte> scratch) {
  for (int i = 0; i < kReads || transport_->pending(); ++i) {
    std::size_t bytes = 0, room = 0;
    const std::size_t most = i == 0 ? std::min(scratch.size(), kFirstBytes) : scratch.size();
    const Io io = read_some(scratch.first(most), bytes, room);
    recycle();  // of calls that were cancelled: between flushes, the outbox has nothing on loan
    if (io == Io::kClosed) return io;
    if (nghttp2_session_get_outbound_queue_size(session_.get()) > kQueued) return Io::kClosed;
    if (io == Io::kDone && transport_->has_more(bytes == room)) continue;
    const std::size_t missing = receiving_ == nullptr ? 0 : receiving_->intake.missing_bytes();
    const bool stopped = i == 0 && io == Io::kAgain;  // who sends no more is not waited for
    wait_for(stopped || missing < kWorthWaking ? 1 : std::min(missing, kWaitedMost));
    return io;
  }
  return Io::kDone;
}

// Reads what is there, DATA right into the slot where it belongs, and has it handled.
Io Connection::read_some(std::span<std::byte> scratch, std::size_t& bytes, std::size_t& room) {
  Scatter scatter(receiving_ == nullptr ? std::span<std::byte>{} : receiving_->intake.room(),
                  frames_, scratch);
  room = scatter.room_bytes();
  const Io io = transport_->read(scatter.pieces(), bytes);
  if (io != Io::kDone) return io;
  const bool sound = scatter.take(bytes, [&](std::span<const std::byte> part) {
    return nghttp2_session_mem_recv(session_.get(),
                                    reinterpret_cast<const std::uint8_t*>(part.data()),
                                    part.size()) >= 0;
  });
  return sound ? Io::kDone : Io::kClosed;
}

// Each time that this thread falls asleep in the middle of a large message costs the client a
// system call's time to wake it.
void Connection::wait_for(std::size_t bytes) {
  if (std::exchange(waited_bytes_, bytes) != bytes) transport_->wait_for(bytes);
}

Io Connection::flush() {
  while (!blocked_) {
    if (nghttp2_session_send(session_.get()) != 0) return Io::kClosed;
    if (outbox_.empty()) break;
    const Io io = outbox_.flush(*transport_);
    recycle();
    if (io == Io::kClosed) return io;
    blocked_ = io == Io::kAgain;
  }
  if (!relieved_.empty()) service_.wants_flush(*this);  // of what they may be sent now
  for (Call* call : relieved_) service_.relieved(*call);
  relieved_.clear();
  return blocked_ ? Io::kAgain : Io::kDone;
}

Io Connection::writable() {
  blocked_ = false;
  return flush();
}

bool Connection::over() const {
  return !blocked_ && nghttp2_session_want_read(session_.get()) == 0 &&
         nghttp2_session_want_write(session_.get()) == 0;
}

bool Connection::is_of_age(std::int64_t age_ns, std::int64_t now_ns) const {
  // A tenth more or less, so that clients that came together do not leave together.
  const auto part = static_cast<std::int64_t>(id_ % 21) - 10;
  return !leaving_ && now_ns - since_ns_ > age_ns + age_ns / 100 * part;
}

bool Connection::is_silent(std::int64_t now_ns) const {
  return !greeted_ && now_ns - since_ns_ > kGreetingNs;
}

void Connection::leave() {
  if (std::exchange(leaving_, true)) return;
  nghttp2_submit_shutdown_notice(session_.get());
  nghttp2_submit_ping(session_.get(), NGHTTP2_FLAG_NONE, nullptr);  // see `frame`
}

// ---- the way out -----------------------------------------------------------------------------

void Connection::answer(Call& call) {
  service_.wants_flush(*this);
  if (call.headers_sent)
    nghttp2_session_resume_data(session_.get(), call.stream);
  else
    submit_answer(call);
}

void Connection::submit_answer(Call& call) {
  call.headers_sent = true;
  if (call.finished && call.out.empty()) {
    Trailers trailers(call);
    const auto fields = trailers.fields(true);
    nghttp2_submit_response(session_.get(), call.stream, fields.data(), fields.size(), nullptr);
    return;
  }
  nghttp2_data_provider provider{{.ptr = &call}, Callbacks::read_data};
  nghttp2_submit_response(session_.get(), call.stream, kHeaders.data(), kHeaders.size(), &provider);
}

void Connection::submit_trailers(Call& call) {
  Trailers trailers(call);
  const auto fields = trailers.fields(false);
  nghttp2_submit_trailer(session_.get(), call.stream, fields.data(), fields.size());
}

void Connection::reset(Call& call, std::uint32_t error) {
  service_.wants_flush(*this);
  nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, call.stream, error);
}

// Answers go one after the other; but what the client does not let come waits for nothing else.
std::int64_t Connection::moved_ns(const Call& call) const {
  const bool shut = nghttp2_session_get_stream_remote_window_size(session_.get(), call.stream) <= 0;
  return shut ? call.sent_ns : std::max(call.sent_ns, sent_ns_);
}

void Connection::consumed(Call& call, std::size_t bytes) {
  nghttp2_session_consume_stream(session_.get(), call.stream, bytes);
}

// How much of the next frame there is: of one message, so that what it lends is one slot's.
ssize_t Connection::plan_data(Call& call, std::size_t length, std::uint32_t& flags) {
  if (call.out.empty() && !call.finished) return NGHTTP2_ERR_DEFERRED;
  const std::size_t left = call.out.empty() ? 0 : call.out.front()->left_bytes;
  const std::size_t bytes = std::min(left, length);
  flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (call.finished && call.out.size() <= 1 && bytes == left) {
    flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    submit_trailers(call);
  }
  return static_cast<ssize_t>(bytes);
}

void Connection::gather(Call& call, std::span<const std::byte> frame_header, std::size_t length) {
  outbox_.copy(frame_header);
  if (length == 0) return;
  Outgoing& outgoing = *call.out.front();
  outgoing.left_bytes -= length;
  call.sent_ns = sent_ns_ = now_ns();
  while (length > 0) {
    wire::Bytes& piece = outgoing.pieces[outgoing.piece];
    const wire::Bytes bytes = piece.first(std::min(piece.size(), length));
    bytes.size() < kLendBytes ? outbox_.copy(bytes) : outbox_.lend(bytes);
    piece = piece.subspan(bytes.size());
    length -= bytes.size();
    if (piece.empty()) ++outgoing.piece;
  }
  if (outgoing.left_bytes > 0) return;
  spent_.push_back(std::move(call.out.front()));
  call.out.erase(call.out.begin());
  if (!call.backlog.empty() && std::ranges::find(relieved_, &call) == relieved_.end())
    relieved_.push_back(&call);
}

void Connection::recycle() {
  for (auto& outgoing : spent_) service_.sent(std::move(outgoing));
  spent_.clear();
}

}  // namespace gslice::grpc
