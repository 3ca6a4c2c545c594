// Who is woken by which eventfd, as front-ends come and go.
#include <sys/eventfd.h>

#include <utility>

#include "check.hpp"
#include "pump/frontend_bells.hpp"

using namespace gslice;

namespace {

class EventFd {
 public:
  EventFd() = default;
  ~EventFd() { close(fd); }
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  // How often it was rung since the last look.
  std::uint64_t rings() const {
    eventfd_t count = 0;
    return eventfd_read(fd, &count) == 0 ? count : 0;
  }
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
};

void ring(FrontendBells& bells, std::vector<std::uint16_t> frontends) {
  bells.ring(frontends);
  CHECK(frontends.empty());
}

}  // namespace

TEST(each_rings_its_own) {
  FrontendBells bells;
  const EventFd a, b;
  CHECK(bells.add(0, a.fd).ok());
  CHECK(bells.add(1, b.fd).ok());
  ring(bells, {1, 0, 1});
  CHECK_EQ(a.rings(), 1u);
  CHECK_EQ(b.rings(), 2u);
  ring(bells, {5, kNobody});  // unknown: nobody waits
  CHECK_EQ(a.rings() + b.rings(), 0u);
}

TEST(a_successor_replaces_and_the_removed_are_silent) {
  FrontendBells bells;
  const EventFd old, next;
  CHECK(bells.add(0, old.fd).ok());
  CHECK(bells.add(0, next.fd).ok());
  ring(bells, {0});
  CHECK_EQ(old.rings(), 0u);
  CHECK_EQ(next.rings(), 1u);
  bells.remove(0);
  bells.remove(0);
  bells.remove(kMaxFrontends);
  ring(bells, {0});
  CHECK_EQ(next.rings(), 0u);
}

TEST(a_full_counter_does_not_block) {
  FrontendBells bells;
  const EventFd full;
  CHECK(bells.add(0, full.fd).ok());
  CHECK_EQ(eventfd_write(full.fd, ~eventfd_t{0} - 1), 0);
  ring(bells, {0});
  CHECK_EQ(full.rings(), ~eventfd_t{0} - 1);
}

TEST(what_is_no_bell_is_refused) {
  FrontendBells bells;
  const EventFd a;
  CHECK(bells.add(kMaxFrontends, a.fd).code == Code::kInvalidArgument);
  CHECK(bells.add(0, a.fd).ok());
  CHECK(bells.add(0, -1).code == Code::kInvalidArgument);
  ring(bells, {0});
  CHECK_EQ(a.rings(), 1u);  // the old one stays
}
