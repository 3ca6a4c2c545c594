// What a hostile front-end can do to a batch by rewriting the records of its slots.
#include "pump_bench.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// The slots of a bench, claimed by an instance of no pump.
std::vector<Ticket> claim(PumpBench& bench) {
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
  PumpBench bench(signature({-1, 2}, {-1, 2}, 4));
  bench.submit({1, 2}, {1, 2});
  bench.submit({1, 2}, {3, 4});
  const std::vector<Ticket> tickets = claim(bench);
  CHECK_EQ(tickets.size(), 2u);
  Assembly assembly(*bench.segment, 0, bench.signature, 0, false);
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

TEST(lying_headers_fail_their_request_only) {
  struct Lie {
    const char* what;
    void (*tell)(SlotHeader&, Segment&);
  };
  const std::vector<Lie> lies{
      {"inputs", [](SlotHeader& s, Segment&) { s.input_count = 0; }},
      {"inputs, many", [](SlotHeader& s, Segment&) { s.input_count = ~0u; }},
      {"rank", [](SlotHeader& s, Segment&) { s.inputs[0].rank = kMaxRank + 1; }},
      {"rank, less", [](SlotHeader& s, Segment&) { s.inputs[0].rank = 1; }},
      {"dtype", [](SlotHeader& s, Segment&) { s.inputs[0].dtype = DType::kInt32; }},
      {"dtype, none", [](SlotHeader& s, Segment&) { s.inputs[0].dtype = static_cast<DType>(200); }},
      {"offset", [](SlotHeader& s, Segment&) { s.inputs[0].offset = 0; }},
      {"offset, huge", [](SlotHeader& s, Segment&) { s.inputs[0].offset = ~std::uint64_t{0}; }},
      {"another's slot", [](SlotHeader& s, Segment&) { s.inputs[0].offset += kPageBytes; }},
      {"bytes", [](SlotHeader& s, Segment&) { s.inputs[0].bytes = ~std::uint64_t{0}; }},
      {"bytes and dims", [](SlotHeader& s, Segment&) { s.inputs[0].bytes -= 4; }},
      {"negative dim", [](SlotHeader& s, Segment&) { s.inputs[0].dims[1] = -2; }},
      {"overflowing dims",
       [](SlotHeader& s, Segment&) { s.inputs[0].dims[1] = std::int64_t{1} << 62; }},
      {"no rows", [](SlotHeader& s, Segment&) { s.rows = 0; }},
      {"rows", [](SlotHeader& s, Segment&) { s.rows = 9; }},
      {"rows, huge", [](SlotHeader& s, Segment&) { s.rows = ~0u; }},
      {"rows and dims", [](SlotHeader& s, Segment&) { s.rows = 2; }},
      {"another width than the first",
       [](SlotHeader& s, Segment&) {
         s.inputs[0].dims[1] = 1;
         s.inputs[0].bytes = 4;
       }},
      {"output offset", [](SlotHeader& s, Segment&) { s.output_offset = 64; }},
      {"output, another's", [](SlotHeader& s, Segment&) { s.output_offset += kPageBytes; }},
      {"output bytes", [](SlotHeader& s, Segment&) { s.output_bytes = ~std::uint64_t{0}; }},
      {"no such block", [](SlotHeader& s, Segment&) { s.output_block = BlockRef{99, 1}.pack(); }},
      {"a free block", [](SlotHeader& s, Segment&) { s.output_block = BlockRef{1, 0}.pack(); }},
  };
  for (const Lie& lie : lies) {
    PumpBench bench(signature({-1, -1}, {-1, -1}, 8));
    const Ticket honest = bench.submit({1, 2}, {1, 2}), liar = bench.submit({1, 2}, {3, 4});
    lie.tell(bench.segment->slot(liar.slot), *bench.segment);
    Assembly assembly(*bench.segment, 0, bench.signature, 0, false);
    assembly.take(std::vector{honest, liar});
    if (assembly.rejected().size() != 1) std::cerr << "lie: " << lie.what << std::endl;
    CHECK_EQ(assembly.rejected().size(), 1u);
    CHECK_EQ(assembly.rejected()[0].ticket.slot, liar.slot);
    CHECK(assembly.rejected()[0].status.code == Code::kInternal);
    CHECK_EQ(assembly.members().size(), 1u);
  }
}

// Nobody believes where the header says that its payload lies.
TEST(a_payload_is_where_it_was_made) {
  PumpBench bench(signature({-1, 2}, {-1, 2}, 8));
  const Ticket ticket = bench.submit({1, 2}, {1, 2});
  bench.segment->slot(ticket.slot).payload_offset = bench.segment->size_bytes();
  bench.segment->slot(ticket.slot).payload_bytes = 0;
  Assembly assembly(*bench.segment, 0, bench.signature, 0, false);
  assembly.take(std::vector{ticket});
  CHECK_EQ(assembly.members().size(), 1u);
}

TEST(more_text_elements_than_bytes_are_refused) {
  PumpBench bench(signature({-1, -1}, {-1, -1}, 4, {4}, DType::kBytes));
  bench.submit_bytes({1, std::int64_t{1} << 40}, serialised({"a", "b"}));
  const std::vector<Ticket> tickets = claim(bench);
  CHECK_EQ(tickets.size(), 1u);
  Assembly assembly(*bench.segment, 0, bench.signature, 0, false);
  assembly.take(tickets);
  CHECK(assembly.members().empty());
  CHECK_EQ(assembly.rejected().size(), 1u);
  CHECK(assembly.rejected()[0].status.code == Code::kInternal);
}
