// The steady state of the transport allocates nothing: every `new` of this program is counted, and
// every time that nghttp2's pool of memory has nothing that fits.
#include "allocations.hpp"
#include "check.hpp"
#include "grpc_bench.hpp"

namespace {

using namespace gslice;
using namespace gslice::test;

// What the server's side of the bench allocates while `work` runs.
template <typename Work>
std::size_t allocations_of(ConnectionBench& bench, Work&& work) {
  const std::size_t before = allocations.load() + bench.pool.asked();
  work();
  return allocations.load() + bench.pool.asked() - before;
}

// A call from its headers to its trailers; how often the server allocated.
std::size_t allocations_of_a_call(ConnectionBench& bench, GrpcClient& client,
                                  const std::string& message) {
  std::size_t count = 0;
  const auto turn = [&] { count += allocations_of(bench, [&] { CHECK(bench.turn()); }); };
  const std::int32_t stream = client.call(message, {{"grpc-timeout", "10S"}});
  while (!client.seen(stream).ended) {
    turn();
    bench.serve();
    turn();
    client.step();
  }
  CHECK_EQ(client.seen(stream).status(), 0);
  return count;
}

}  // namespace

TEST(no_allocation_once_warm) {
  ConnectionBench bench;
  GrpcClient client(bench.connect(), 1 << 30);
  // One that is read in place, one that goes into its slot, and both ways for an answer to leave.
  for (const std::int64_t rows : {1, 3, 20}) {
    const std::string message = wide_request(rows, 'x', "an id that is longer than a short string");
    std::size_t cold = 0;
    for (int warm = 0; warm < 50; ++warm) cold += allocations_of_a_call(bench, client, message);
    CHECK(rows != 1 || cold > 0);  // they are counted
    for (int i = 0; i < 100; ++i) CHECK_EQ(allocations_of_a_call(bench, client, message), 0u);
  }
  CHECK(bench.idle());
}
