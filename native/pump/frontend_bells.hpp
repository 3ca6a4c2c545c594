// The eventfds of the front-ends that an instance answers.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.hpp"
#include "segment/layout.hpp"

namespace gslice {

class FrontendBells {
 public:
  FrontendBells() { fds_.fill(-1); }
  ~FrontendBells() {
    for (std::uint16_t i = 0; i < kMaxFrontends; ++i) remove(i);
  }
  FrontendBells(const FrontendBells&) = delete;
  FrontendBells& operator=(const FrontendBells&) = delete;

  // Keeps a duplicate of the descriptor; replaces an older one of the same front-end.
  Status add(std::uint32_t frontend, int eventfd) {
    if (frontend >= kMaxFrontends)
      return Status::Error(Code::kInvalidArgument, "front-end " + std::to_string(frontend) +
                                                       " is out of range; there are " +
                                                       std::to_string(kMaxFrontends));
    const int fd = fcntl(eventfd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
      return Status::Error(
          Code::kInvalidArgument,
          "the eventfd of front-end " + std::to_string(frontend) + ": " + std::strerror(errno));
    replace(frontend, fd);
    return Status::Ok();
  }

  void remove(std::uint32_t frontend) {
    if (frontend < kMaxFrontends) replace(frontend, -1);
  }

  // Wakes each front-end once, and clears the list.
  void ring(std::vector<std::uint16_t>& frontends) {
    if (frontends.empty()) return;
    const std::lock_guard lock(mutex_);
    for (const std::uint16_t frontend : frontends) {
      const std::uint64_t one = 1;
      // A full counter (EAGAIN) is as good as a rung bell; a front-end that has no descriptor here
      // was removed, and nobody waits for it.
      if (frontend < kMaxFrontends && fds_[frontend] >= 0)
        while (write(fds_[frontend], &one, sizeof(one)) < 0 && errno == EINTR) {
        }
    }
    frontends.clear();
  }

 private:
  void replace(std::uint32_t frontend, int fd) {
    const std::lock_guard lock(mutex_);
    if (fds_[frontend] >= 0) close(fds_[frontend]);
    fds_[frontend] = fd;
  }

  std::mutex mutex_;
  std::array<int, kMaxFrontends> fds_;
};

}  // namespace gslice
