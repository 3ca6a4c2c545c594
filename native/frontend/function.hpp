// A function as its front-end serves it: its segment, its signature, and what the front-end keeps
// of each request in flight, by slot.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "access/tenants.hpp"
#include "base/clock.hpp"
#include "base/signature.hpp"
#include "base/status.hpp"
#include "frontend/admission.hpp"
#include "segment/segment.hpp"
#include "wire/request.hpp"
#include "wire/response.hpp"

namespace gslice {

// Where an output goes in a client's memory, which stays for as long as the request.
struct OutputPlace {
  OutputArea output;
  std::shared_ptr<const Region> region;
};

// What the front-end keeps of a request: never in shared memory, where a worker could change it.
struct Pending {
  bool live = false;
  bool reserved = false;  // its tensors are on their way
  std::uint32_t generation = 0;
  std::int64_t deadline_ns = kNever;
  std::uint64_t tag = 0;        // the caller's
  TenantId tenant = kNoTenant;  // whose quotas it counts for
  OutputChoice outputs;
  std::vector<OutputPlace> places;  // outputs for the client's memory, in their order
  std::string id;                   // the client's; keeps its capacity, as `places` does
};

// An answer read out of a slot and checked: what it says can no longer change.
struct Answer {
  std::array<wire::OutputView, kMaxTensors> outputs{};
  std::array<std::array<std::int64_t, kMaxRank>, kMaxTensors> dims{};
  wire::ResponseView response;
  std::uint64_t data_bytes = 0;
};

class Function {
 public:
  // `index`: the function's number in tickets.
  Function(std::uint32_t index, std::string name, std::string version,
           std::shared_ptr<Segment> segment, Signature signature, std::int64_t slo_ns);

  std::uint32_t index() const { return index_; }
  std::string_view name() const { return name_; }
  const Signature& signature() const { return signature_; }
  Segment& segment() { return *segment_; }
  Pending& pending(std::uint32_t slot) { return pending_[slot]; }

  // Whether it is the function of that name in that segment, however often it was mapped.
  bool is_same(std::string_view name, Segment& segment);
  void renew(std::string version, std::int64_t slo_ns);

  // Whether a request for this version (empty: any) can be served.
  Status check_version(std::string_view version) const;
  // kResourceExhausted: larger than the largest slot.
  Status check_size(const Admission& admission) const;
  // kDeadlineExceeded: past, or behind others in the queue and predicted to finish too late.
  Status check_deadline(std::uint32_t rows, std::int64_t deadline_ns, std::int64_t now);

  // Whether one more request may hold a slot while its tensors are on their way: clients that send
  // slowly, or stop, must leave room for others.
  bool may_reserve() const { return reserved < segment_->slot_count() / 2; }
  // Writes the admitted request into its leased slot: header, records and those tensors that are
  // there (`raw` with an address, or in a region). An error is about a client's memory, or
  // kInternal.
  Status fill(Ticket ticket, const wire::Request& request, const Admission& admission,
              std::int64_t deadline_ns, std::int64_t now);
  // Reads a DONE slot, and writes what goes to the client's memory. The answer's error if it is
  // one; kInternal if what lies there is no answer.
  Status read_answer(Ticket ticket, bool stream, Answer& answer);

  void count(Outcome outcome);
  void count_copies(std::uint64_t copies, std::uint64_t bytes);
  // The same status with the function's name in front.
  Status named(const Status& status) const;

  std::uint32_t in_flight = 0;
  std::uint32_t reserved = 0;  // of them: those whose tensors are on their way
  bool to_ring = false;        // its pumps do not know of all that was queued
  bool retired = false;        // replaced or removed: forgotten when its last request is

 private:
  std::int64_t due_ns(std::int64_t deadline_ns, std::int64_t now) const;
  std::uint32_t pulling_instances();
  Status read_input(const AdmittedInput& input, const TensorSpec& spec,
                    std::span<std::byte> target) const;
  Status place_outputs(const Pending& request, Answer& answer) const;
  Status read_output(const SlotHeader& slot, std::size_t index, wire::OutputView& output,
                     std::array<std::int64_t, kMaxRank>& dims);

  std::uint32_t index_;
  std::string name_;
  std::string version_;
  std::shared_ptr<Segment> segment_;
  Signature signature_;
  std::int64_t slo_ns_;
  std::vector<Pending> pending_;  // by slot
};

}  // namespace gslice
