#include "grpc/transport.hpp"

#include <sys/socket.h>

#include <cerrno>

namespace gslice::grpc {
namespace {

Io outcome(ssize_t result, std::size_t& bytes) {
  if (result > 0) {
    bytes = static_cast<std::size_t>(result);
    return Io::kDone;
  }
  return result < 0 && (errno == EAGAIN || errno == EINTR) ? Io::kAgain : Io::kClosed;
}

}  // namespace

Io Transport::read(std::span<const iovec> pieces, std::size_t& bytes) {
  return outcome(::readv(fd(), pieces.data(), static_cast<int>(pieces.size())), bytes);
}

void Transport::wait_for(std::size_t bytes) {
  const int wanted = static_cast<int>(bytes);
  ::setsockopt(fd(), SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
}

Io Transport::write(std::span<const iovec> pieces, std::size_t& bytes) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = pieces.size();
  return outcome(::sendmsg(fd(), &message, MSG_NOSIGNAL), bytes);
}

}  // namespace gslice::grpc
