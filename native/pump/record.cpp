#include "pump/record.hpp"

#include <time.h>

#include <algorithm>

#include "segment/segment.hpp"

namespace gslice {
namespace {

constexpr std::int64_t kSmoothing = 8;  // a new batch counts for an eighth

std::int64_t wall_ms() {
  timespec ts{};
  clock_gettime(CLOCK_REALTIME, &ts);
  return std::int64_t{ts.tv_sec} * 1000 + ts.tv_nsec / 1'000'000;
}

}  // namespace

void record_request(Stats& stats, const Member& member, const LaneReport& report, bool ok,
                    std::int64_t done_ns) {
  const auto add = [&](Stage stage, std::int64_t duration_ns) {
    histogram_add(stats.stage[static_cast<std::size_t>(stage)], duration_ns);
  };
  stats.outcome[static_cast<std::size_t>(ok ? Outcome::kOk : Outcome::kFailed)].add_relaxed(1);
  add(Stage::kQueue, member.claimed_ns - member.queued_ns);
  add(Stage::kTotal, done_ns - member.leased_ns);
  if (!ok) return;
  add(Stage::kCopyIn, report.copy_in_ns);
  add(Stage::kCompute, report.computed_ns - report.compute_ns);
  add(Stage::kCopyOut, report.copy_out_ns);
}

void record_batch(SegmentHeader& header, Assembly& assembly, const LaneReport& report,
                  std::int64_t waited_ns) {
  Stats& stats = header.stats;
  const std::int64_t compute_ns = report.computed_ns - report.compute_ns;
  const std::uint32_t rows = assembly.batch().rows();
  const Assembly::Traffic traffic = assembly.traffic();
  stats.compute_busy_ns.add_relaxed(static_cast<std::uint64_t>(compute_ns));
  stats.copies.add_relaxed(traffic.copies);
  stats.copied_bytes.add_relaxed(traffic.bytes);
  stats.rows.add_relaxed(rows);
  stats.executions.add_relaxed(1);
  stats.batch_rows[std::min<std::size_t>(rows, stats.batch_rows.size() - 1)].add_relaxed(1);
  stats.last_inference_ms.store_relaxed(wall_ms());

  const std::int64_t batch_ns = waited_ns + report.copy_in_ns + compute_ns + report.copy_out_ns;
  const std::int64_t before_ns = header.batch_estimate_ns.load_relaxed();
  header.batch_estimate_ns.store_relaxed(
      before_ns == 0 ? batch_ns : before_ns + (batch_ns - before_ns) / kSmoothing);
}

}  // namespace gslice
