// What a front-end keeps of single requests, for whoever asked for it: of those that are traced,
// and of those that failed. Used by the data path's thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "access/tenants.hpp"
#include "base/status.hpp"

namespace gslice {

// Where a request belongs: W3C Trace Context. Zeros: a trace begins with it.
struct TraceContext {
  std::array<std::uint8_t, 16> trace{};
  std::array<std::uint8_t, 8> parent{};
};

struct TraceParent {
  TraceContext context;
  bool sampled = false;  // whoever called records it
};

// A `traceparent` header; nothing if it is none.
std::optional<TraceParent> parse_traceparent(std::string_view text);

// What is known of a request that its message does not say.
struct Origin {
  std::string_view traceparent;
  std::int64_t received_ns = 0;  // when the first of it came; 0: when its slot was leased
  TenantId tenant = kNoTenant;   // whose quotas hold for it
};

// Moments of a request's life, CLOCK_MONOTONIC, in their order; 0: it did not come so far.
struct RequestStamps {
  std::int64_t received_ns = 0, queued_ns = 0, claimed_ns = 0, compute_ns = 0, computed_ns = 0,
               done_ns = 0, answered_ns = 0;
};

struct RequestRecord {
  bool traced = false;  // else it is here because it failed
  TraceContext context;
  std::string function, version, id;
  std::uint32_t rows = 0;
  Status status;
  RequestStamps stamps;
};

class Journal {
 public:
  // `sample`: of requests without a traceparent, so many are traced, 0 to 1. `failures`: those that
  // fail are kept, too.
  Journal(double sample, bool failures);

  // Whether a request is traced: as its caller says, else by chance.
  std::optional<TraceContext> traced(std::string_view traceparent);
  bool keeps(bool is_traced, const Status& status) const {
    return is_traced || (failures_ && !status.ok());
  }
  // Bounded: what nobody takes in time is counted, and lost.
  void add(RequestRecord record);

  struct Page {
    std::vector<RequestRecord> records;
    std::uint64_t lost = 0;
  };
  Page take();

 private:
  std::uint64_t below_;  // of 2^64 random numbers, those for which a request is traced
  bool always_;
  bool failures_;
  std::mt19937_64 random_;
  Page page_;
};

// Stamps come from shared memory: each at least the one before it, none after the last.
RequestStamps ordered(RequestStamps stamps);

}  // namespace gslice
