// What a hostile front-end can do to a batch by rewriting the records of its slots.
#include "pump_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// The slots of a bench, claimed by an instance of no pump.
std::vector<Ticket> claim(Bench& bench) {
  const auto index = bench.segment->add_instance();
  CHECK(index.ok());
  CHECK(bench.segment->flip(kNobody, index.value()));
  Claim claimed;
  std::vector<std::uint16_t> wake;
  bench.segment->claim(index.value(), {bench.signature.rows_max, 0}, now_ns(), claimed, wake);
  return claimed.slots;
}

}  // namespace

TEST(records_that_change_after_their_check_move_no_copy) {
  Bench bench(signature({-1, 2}, {-1, 2}, 4));
  bench.submit({1, 2}, {1, 2});
  bench.submit({1, 2}, {3, 4});
  const std::vector<Ticket> tickets = claim(bench);
  CHECK_EQ(tickets.size(), 2u);
  Assembly assembly(*bench.segment, 0, bench.signature, 0);
  assembly.take(tickets);
  CHECK_EQ(assembly.members().size(), 2u);
  for (const Ticket ticket : tickets) {
    SlotHeader& slot = bench.segment->slot(ticket.slot);
    slot.inputs[0].bytes = slot.outputs[0].bytes = kPageBytes;
    slot.inputs[0].rank = slot.outputs[0].rank = 1000;
    slot.inputs[0].offset = slot.outputs[0].offset = bench.segment->size_bytes();
  }
  CpuDevice device(1);
  CHECK(assembly.lay_out(device).ok());
  CHECK_EQ(assembly.batch().input(0).bytes, 4 * sizeof(float));
  CHECK_EQ(assembly.batch().input(0).shape.rank, 2u);
  for (const auto list : {assembly.gather(), assembly.scatter()}) {
    CHECK_EQ(list.size(), 2u);
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto payload = bench.segment->slot(tickets[i].slot).payload_offset;
      CHECK_EQ(list[i].bytes, 2 * sizeof(float));
      CHECK_EQ(list[i].offset, list[0].offset + i * 2 * sizeof(float));
      const auto slot = bench.segment->bytes_at(payload, kPageBytes);
      CHECK(list[i].slot >= slot.data() && list[i].slot < slot.data() + slot.size());
    }
  }
}

TEST(more_text_elements_than_bytes_are_refused) {
  Bench bench(signature({-1, -1}, {-1, -1}, 4, {4}, DType::kBytes));
  bench.submit_bytes({1, std::int64_t{1} << 40}, serialised({"a", "b"}));
  const std::vector<Ticket> tickets = claim(bench);
  CHECK_EQ(tickets.size(), 1u);
  Assembly assembly(*bench.segment, 0, bench.signature, 0);
  assembly.take(tickets);
  CHECK(assembly.members().empty());
  CHECK_EQ(assembly.rejected().size(), 1u);
  CHECK(assembly.rejected()[0].status.code == Code::kInternal);
}
