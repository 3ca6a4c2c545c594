// The requests of one batch on their way through a lane: bound where they lie if there is one and
// it needs no padding, otherwise gathered into the lane's buffer and scattered from it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pump/device_table.hpp"
#include "pump/engine.hpp"
#include "segment/segment.hpp"

namespace gslice {

// One claimed request.
struct Member {
  Ticket ticket;
  std::uint32_t rows = 0;         // in the batch; 1 if the function is not batchable
  Area output;                    // its output area, checked to be its own
  std::uint64_t output_used = 0;  // bytes of that which are taken
  Status status;                  // why it fails although the batch does not
  // Of the slot, which may be another request's as soon as this one is completed.
  std::int64_t leased_ns = 0, queued_ns = 0, claimed_ns = 0;
};

class Assembly final : public OutputSink {
 public:
  // `in_place`: see Engine.
  Assembly(Segment& segment, std::uint16_t instance, const Signature& signature, std::uint32_t lane,
           bool in_place);

  // Takes over claimed slots. Those that can not run end up in rejected(), with their status.
  void take(std::span<const Ticket> tickets);
  // Lays the batch out and lists its copies. kResourceExhausted: no memory for the lane's buffer.
  Status lay_out(DeviceTable& device);

  Batch& batch() { return batch_; }
  std::span<const Copy> gather() const { return gather_; }
  std::span<const Copy> scatter() const { return scatter_; }
  std::span<Member> members() { return members_; }
  std::span<const Member> members() const { return members_; }
  // Of a member, by its place: where they lie, as they were checked.
  std::span<const Tensor> inputs_of(std::size_t member) const {
    return std::span(inputs_).subspan(member * signature_.inputs.size(), signature_.inputs.size());
  }
  std::span<Member> rejected() { return rejected_; }
  bool buffer_grown() const { return buffer_grown_; }
  // Tensor copies that a batch that succeeded has made.
  struct Traffic {
    std::uint64_t copies = 0;
    std::uint64_t bytes = 0;
  };
  Traffic traffic() const;

  Status store(std::uint32_t output, const Shape& shape, std::span<const std::byte> data) override;

 private:
  bool batchable() const { return signature_.rows_max != 0; }
  Status check_inputs(SlotHeader& header, const Member& member);
  bool fits(const TensorRecord& record, std::size_t input, std::uint32_t rows) const;
  Status find_output_area(Member& member) const;
  Status reserve_declared(Member& member);
  Result<std::byte*> place(Member& member, std::uint32_t output, const Shape& shape,
                           std::uint64_t bytes);
  std::uint32_t choose_bucket(std::uint32_t rows) const;
  std::span<const Tensor> outputs_of(std::size_t member) const {
    return std::span(outputs_).subspan(member * signature_.outputs.size(),
                                       signature_.outputs.size());
  }
  bool binds_in_place(const DeviceTable& device);
  void bind_in_place();
  std::uint64_t row_bytes(std::uint32_t input) const;
  std::optional<std::size_t> buffer_bytes(std::uint32_t bucket) const;
  void bind_buffer(std::byte* buffer);
  std::size_t list_gather(std::uint32_t input, std::size_t offset);
  void list_scatter(std::uint32_t output, std::size_t offset);

  Segment& segment_;
  const std::uint16_t instance_;
  const Signature& signature_;
  const bool in_place_;
  Batch batch_;
  std::vector<Member> members_;
  std::vector<Member> rejected_;
  // Of each member in turn: where its tensors lie, checked once and copied, because a slot's
  // records can change under our hands. Outputs whose shape is not known are null.
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::vector<Copy> gather_;
  std::vector<Copy> scatter_;
  bool buffer_grown_ = false;
  Traffic stored_;  // by store()
};

}  // namespace gslice
