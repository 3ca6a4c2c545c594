// TLS 1.2 and 1.3 by OpenSSL, HTTP/2 by ALPN.
#include "grpc/transport.hpp"
#include "wire/text.hpp"

#if GSLICE_TLS

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace gslice::grpc {
namespace {

using wire::concat;

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Context = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Free<SSL_free>>;
using Memory = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

class TlsTransport : public Transport {
 public:
  TlsTransport(Descriptor socket, Session session)
      : Transport(std::move(socket)), session_(std::move(session)) {}

  Io read(std::span<const iovec> pieces, std::size_t& bytes) override {
    const iovec& piece = pieces.front();
    return outcome(SSL_read_ex(session_.get(), piece.iov_base, piece.iov_len, &bytes));
  }
  bool has_more(bool) const override { return true; }  // a record may fill less
  bool pending() const override { return SSL_has_pending(session_.get()) != 0; }
  void wait_for(std::size_t) override {}  // records are smaller than what is worth waiting for

  // A record a piece: those that the outbox gathers are frames of up to a record's size.
  Io write(std::span<const iovec> pieces, std::size_t& bytes) override {
    bytes = 0;
    for (const iovec& piece : pieces) {
      std::size_t written = 0;
      const Io io = outcome(SSL_write_ex(session_.get(), piece.iov_base, piece.iov_len, &written));
      bytes += written;
      if (io == Io::kClosed) return io;
      if (io == Io::kAgain || written < piece.iov_len) break;
    }
    return bytes > 0 ? Io::kDone : Io::kAgain;
  }

  bool waits_to_read() const override { return SSL_want_read(session_.get()) != 0; }

 private:
  Io outcome(int result) {
    if (result > 0) return Io::kDone;
    const int error = SSL_get_error(session_.get(), result);
    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? Io::kAgain : Io::kClosed;
  }

  Session session_;
};

class TlsTransports : public Transports {
 public:
  explicit TlsTransports(Context context) : context_(std::move(context)) {}

  std::unique_ptr<Transport> accept(Descriptor socket) override {
    Session session(SSL_new(context_.get()));
    if (session == nullptr || SSL_set_fd(session.get(), socket.get()) != 1) return nullptr;
    SSL_set_accept_state(session.get());
    return std::make_unique<TlsTransport>(std::move(socket), std::move(session));
  }

 private:
  Context context_;
};

int choose_http2(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes,
                 const unsigned char* offered, unsigned int offered_bytes, void*) {
  constexpr std::string_view kHttp2 = "h2";
  for (unsigned int at = 0; at < offered_bytes; at += 1u + offered[at]) {
    const unsigned int length = std::min<unsigned int>(offered[at], offered_bytes - at - 1);
    if (std::string_view(reinterpret_cast<const char*>(offered + at + 1), length) != kHttp2)
      continue;
    *chosen = offered + at + 1;
    *chosen_bytes = offered[at];
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

Status refused(std::string_view what) {
  std::string why = "it is no PEM of that";
  if (const char* reason = ERR_reason_error_string(ERR_peek_error()); reason != nullptr)
    why = reason;
  ERR_clear_error();
  return Status::Error(Code::kInvalidArgument, concat("TLS ", what, ": ", why));
}

// One after the other, as PEM has them.
std::vector<Certificate> certificates(const std::string& pem) {
  const Memory memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Certificate> found;
  while (X509* each = PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr))
    found.emplace_back(each);
  if (!found.empty()) ERR_clear_error();  // of the end
  return found;
}

bool use_certificates(SSL_CTX* context, const std::string& pem) {
  auto chain = certificates(pem);
  if (chain.empty() || SSL_CTX_use_certificate(context, chain.front().get()) != 1) return false;
  for (std::size_t i = 1; i < chain.size(); ++i)
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) return false;
  return true;
}

bool use_key(SSL_CTX* context, const std::string& pem) {
  const Memory memory(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const Key key(PEM_read_bio_PrivateKey(memory.get(), nullptr, nullptr, nullptr));
  return key != nullptr && SSL_CTX_use_PrivateKey(context, key.get()) == 1 &&
         SSL_CTX_check_private_key(context) == 1;
}

bool trust(SSL_CTX* context, const std::string& pem) {
  const auto authorities = certificates(pem);
  return !authorities.empty() && std::ranges::all_of(authorities, [&](const Certificate& each) {
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(context), each.get()) == 1 &&
           SSL_CTX_add_client_CA(context, each.get()) == 1;
  });
}

}  // namespace

Result<std::unique_ptr<Transports>> tls_transports(const TlsPem& pem) {
  Context context(SSL_CTX_new(TLS_server_method()));
  SSL_CTX* ctx = context.get();
  if (ctx == nullptr || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
    return Status::Error(Code::kInternal, "OpenSSL does not start");
  // The outbox may have moved what the socket did not take when it is tried again.
  SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                            SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  constexpr std::string_view kSessions =
      "gslice";  // without a name none that shows a certificate resumes
  SSL_CTX_set_session_id_context(ctx, reinterpret_cast<const unsigned char*>(kSessions.data()),
                                 static_cast<unsigned int>(kSessions.size()));
  SSL_CTX_set_alpn_select_cb(ctx, choose_http2, nullptr);
  if (!use_certificates(ctx, pem.certificate)) return refused("certificate");
  if (!use_key(ctx, pem.key)) return refused("key");
  if (!pem.client_authority.empty()) {
    if (!trust(ctx, pem.client_authority)) return refused("client authority");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return std::unique_ptr<Transports>(std::make_unique<TlsTransports>(std::move(context)));
}

}  // namespace gslice::grpc

#else

namespace gslice::grpc {

Result<std::unique_ptr<Transports>> tls_transports(const TlsPem&) {
  return Status::Error(Code::kUnimplemented,
                       "the native front-end was built without OpenSSL: install libssl-dev and "
                       "build again, or set frontend: python");
}

}  // namespace gslice::grpc

#endif
