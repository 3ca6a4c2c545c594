// The pump's figures in the segment: relaxed counters that the daemon and the front-ends read.
#pragma once

#include <cstdint>

#include "pump/assembly.hpp"
#include "pump/device_table.hpp"
#include "segment/layout.hpp"

namespace gslice {

// One answered request. `done_ns`: when it became DONE.
void record_request(Stats& stats, const Member& member, const LaneReport& report, bool ok,
                    std::int64_t done_ns);

// One batch that ran: its size, its copies, its time, and the smoothed time of a batch, of which
// `waited_ns` went by before it had its turn.
void record_batch(SegmentHeader& header, Assembly& assembly, const LaneReport& report,
                  std::int64_t waited_ns);

}  // namespace gslice
