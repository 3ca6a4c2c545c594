// A connection's bytes, to and from its socket; with TLS where the node has a certificate.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/status.hpp"
#include "grpc/descriptor.hpp"

namespace gslice::grpc {

enum class Io { kDone, kAgain, kClosed };

class Transport {
 public:
  explicit Transport(Descriptor socket) : socket_(std::move(socket)) {}
  virtual ~Transport() = default;

  int fd() const { return socket_.get(); }
  // kDone: `bytes` have been read into the pieces, more than none. kClosed: by the peer, or by an
  // error.
  virtual Io read(std::span<const iovec> pieces, std::size_t& bytes);
  // kDone: `bytes` of the pieces have been taken, more than none.
  virtual Io write(std::span<const iovec> pieces, std::size_t& bytes);
  // Whether more may be read at once after a read that `filled` what it was given, or did not.
  virtual bool has_more(bool filled) const { return filled; }
  // Whether bytes that were taken from the socket have not been read yet: it does not tell of them.
  virtual bool pending() const { return false; }
  // Whether the last write waits for the peer to say something first.
  virtual bool waits_to_read() const { return false; }
  // Has the socket be readable when so many bytes have come.
  virtual void wait_for(std::size_t bytes);

 protected:
  Descriptor socket_;
};

// Certificates as PEM. With a client authority, clients must show one that it signed.
struct TlsPem {
  std::string certificate;
  std::string key;
  std::string client_authority;
};

// Makes the transports of accepted sockets.
class Transports {
 public:
  virtual ~Transports() = default;
  virtual std::unique_ptr<Transport> accept(Descriptor socket) {
    return std::make_unique<Transport>(std::move(socket));
  }
};

// kInvalidArgument: one cannot be used, or the key is another's; kUnimplemented: built without.
Result<std::unique_ptr<Transports>> tls_transports(const TlsPem& pem);

}  // namespace gslice::grpc
