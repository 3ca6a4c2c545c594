// The steady state of the data path allocates nothing: every `new` of this program is counted.
#include <sys/mman.h>
#include <unistd.h>

#include "allocations.hpp"
#include "check.hpp"
#include "frontend_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;

// One request through submit, take_done and answer; how often those allocated.
std::size_t allocations_of_a_request(FrontendBench& bench, const Proto& message, std::string& out,
                                     std::vector<TicketId>& done) {
  const std::size_t before_submit = allocations.load();
  const auto id = bench.frontend.submit(message.bytes(), now_ns() + 1'000'000'000);
  const std::size_t in_submit = allocations.load() - before_submit;
  CHECK(id.ok());
  CHECK_EQ(bench.serve(), 1u);
  const std::size_t before_answer = allocations.load();
  bench.frontend.take_done(done);
  const auto bytes = bench.frontend.begin_answer(done.front(), false);
  CHECK(bytes.ok());
  CHECK(bytes.value() <= out.size());
  bench.frontend.write_answer(std::as_writable_bytes(std::span(out)).first(bytes.value()));
  return in_submit + allocations.load() - before_answer;
}

}  // namespace

TEST(no_allocation_through_a_region) {
  const int fd = memfd_create("test", MFD_CLOEXEC);
  CHECK(ftruncate(fd, kPageBytes) == 0);
  FrontendBench bench(echo_signature(), 0, make_segment(1), true);
  CHECK(
      bench.frontend.add_region(ok(Region::open("a region of a client", fd, 0, kPageBytes))).ok());
  close(fd);
  const Proto region = parameter("shared_memory_region", Proto().text(3, "a region of a client"));
  const Proto size = parameter("shared_memory_byte_size", Proto().varint(2, 16));
  const Proto message =
      Proto()
          .text(1, "echo")
          .message(5, input("x", "FP32", {1, 4}).message(4, region).message(4, size))
          .message(6, Proto().text(1, "y").message(2, region).message(2, size));
  std::string out(4096, '\0');
  std::vector<TicketId> done;
  allocations_of_a_request(bench, message, out, done);
  for (int turn = 0; turn < 100; ++turn)
    CHECK_EQ(allocations_of_a_request(bench, message, out, done), 0u);
}

TEST(no_allocation_once_warm) {
  FrontendBench bench(echo_signature(), 0, make_segment(1));
  const Proto raw = echo_request(8, "an id that is longer than a short string can hold in place")
                        .message(4, parameter("timeout", Proto().varint(2, 1'000'000)))
                        .message(6, Proto().text(1, "y"));
  const Proto typed = Proto().text(1, "echo").message(
      5, input("x", "FP32", {1, 4}).message(5, Proto().text(6, std::string(16, 'x'))));
  std::string out(4096, '\0');
  std::vector<TicketId> done;
  for (const Proto& message : {raw, typed}) allocations_of_a_request(bench, message, out, done);
  for (int turn = 0; turn < 100; ++turn)
    for (const Proto& message : {raw, typed})
      CHECK_EQ(allocations_of_a_request(bench, message, out, done), 0u);
}
