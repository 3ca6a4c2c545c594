// Creation and opening of a segment: every bound that later code relies on is checked here, once.
#include <algorithm>
#include <cstring>
#include <new>
#include <random>

#include "segment/lock.hpp"
#include "segment/segment.hpp"

namespace gslice {

namespace {

constexpr std::uint64_t kMaxSegmentBytes = std::uint64_t{1} << 42;

std::uint64_t page_up(std::uint64_t bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

// Where everything lies, from the counts alone; creation and opening must agree on it.
struct Plan {
  std::uint64_t slots_offset = 0, blocks_offset = 0, payloads_offset = 0, pool_offset = 0;
  std::uint64_t total_bytes = 0;
};

Plan plan_of(std::span<const SlotClassSpec> classes, std::uint64_t block_bytes,
             std::uint32_t block_count) {
  Plan plan;
  std::uint64_t slots = 0, payload_bytes = 0;
  for (const SlotClassSpec& c : classes) {
    slots += c.count;
    payload_bytes += c.count * c.payload_bytes;
  }
  plan.slots_offset = page_up(sizeof(SegmentHeader));
  plan.blocks_offset = plan.slots_offset + slots * sizeof(SlotHeader);
  plan.payloads_offset = page_up(plan.blocks_offset + block_count * sizeof(BlockHeader));
  plan.pool_offset = plan.payloads_offset + payload_bytes;
  plan.total_bytes = plan.pool_offset + block_count * block_bytes;
  return plan;
}

// Also keeps every sum of `plan_of` far from overflow. Empty: the counts are sound.
std::string fault_of(std::span<const SlotClassSpec> classes, std::uint64_t block_bytes,
                     std::uint32_t block_count) {
  if (classes.empty() || classes.size() > kMaxClasses) return "it needs 1 to 3 slot classes";
  std::uint64_t slots = 0, bytes_before = 0;
  for (const SlotClassSpec& c : classes) {
    if (c.count == 0 || c.count > kMaxSlots) return "a slot class needs 1 to 1024 slots";
    if (c.payload_bytes == 0 || c.payload_bytes % kPageBytes != 0 ||
        c.payload_bytes > kMaxSegmentBytes / kMaxSlots)
      return "a slot's payload must be a positive multiple of 4096 bytes, 4 GiB at most";
    if (c.payload_bytes <= bytes_before) return "slot classes must ascend in size";
    bytes_before = c.payload_bytes;
    slots += c.count;
  }
  if (slots > kMaxSlots) return "it has more than 1024 slots";
  if (block_count > kMaxBlocks) return "it has more than 64 overflow blocks";
  if (block_count > 0 && (block_bytes == 0 || block_bytes % kPageBytes != 0 ||
                          block_bytes > kMaxSegmentBytes / kMaxBlocks))
    return "an overflow block must be a positive multiple of 4096 bytes";
  return {};
}

Status failed(const std::string& why) { return Status::Error(Code::kInternal, "segment: " + why); }

Status refused(std::string_view why) {
  return Status::Error(Code::kInternal, "not a segment of this build: " + std::string(why));
}

}  // namespace

void Segment::hold(SharedMemory memory) {
  memory_ = std::move(memory);
  base_ = memory_.base();
  size_bytes_ = memory_.size_bytes();
}

Result<std::shared_ptr<Segment>> Segment::create(const SegmentSpec& spec) {
  if (spec.name.empty() || spec.name.size() >= sizeof(SegmentHeader::name))
    return Status::Error(Code::kInvalidArgument, "segment: the name must have 1 to 127 bytes");
  if (const std::string fault = fault_of(spec.classes, spec.block_bytes, spec.block_count);
      !fault.empty())
    return Status::Error(Code::kInvalidArgument, "segment of " + spec.name + ": " + fault);

  std::shared_ptr<Segment> segment(new Segment());
  const Plan plan = plan_of(spec.classes, spec.block_bytes, spec.block_count);
  auto memory = SharedMemory::create("gslice:" + spec.name, plan.total_bytes);
  if (!memory.ok()) return failed(memory.status().message);
  segment->hold(memory.take());
  segment->describe(spec);
  if (const int error = FunctionLock::initialise(segment->header_->lock); error != 0)
    return failed("robust mutex: " + std::string(std::strerror(error)));
  if (Status checked = segment->check_header(); !checked.ok()) return checked;
  segment->rebuild_hints();
  return segment;
}

// Fills fresh (zeroed) memory. Payloads stay untouched, so that they cost nothing until used.
void Segment::describe(const SegmentSpec& spec) {
  const Plan plan = plan_of(spec.classes, spec.block_bytes, spec.block_count);
  header_ = new (base_) SegmentHeader;
  SegmentHeader& header = *header_;
  std::random_device random;
  header.magic = kSegmentMagic;
  header.version = kLayoutVersion;
  header.header_bytes = sizeof(SegmentHeader);
  header.segment_bytes = plan.total_bytes;
  header.generation = std::uint64_t{random()} << 32 | random();
  header.block_count = spec.block_count;
  header.slots_offset = plan.slots_offset;
  header.blocks_offset = plan.blocks_offset;
  header.block_bytes = spec.block_bytes;
  std::copy(spec.name.begin(), spec.name.end(), header.name.begin());

  std::uint64_t payload = plan.payloads_offset;
  for (const SlotClassSpec& c : spec.classes) {
    const std::uint32_t number = header.class_count++;
    header.class_first[number] = header.slot_count;
    header.class_slots[number] = c.count;
    header.class_bytes[number] = c.payload_bytes;
    for (std::uint32_t i = 0; i < c.count; ++i, payload += c.payload_bytes) {
      const std::uint64_t at = plan.slots_offset + header.slot_count++ * sizeof(SlotHeader);
      SlotHeader& slot = *new (base_ + at) SlotHeader;
      slot.word.store(SlotWord{}.pack());
      slot.payload_offset = payload;
      slot.payload_bytes = c.payload_bytes;
    }
  }
  for (std::uint32_t i = 0; i < spec.block_count; ++i) {
    BlockHeader& block = *new (base_ + plan.blocks_offset + i * sizeof(BlockHeader)) BlockHeader;
    block.word.store(BlockWord{}.pack());
    block.offset = plan.pool_offset + i * spec.block_bytes;
  }
}

Result<std::shared_ptr<Segment>> Segment::open(int fd) {
  std::shared_ptr<Segment> segment(new Segment());
  auto memory = SharedMemory::open(fd, sizeof(SegmentHeader));
  if (!memory.ok()) return refused(memory.status().message);
  segment->hold(memory.take());
  if (Status checked = segment->check_header(); !checked.ok()) return checked;
  if (Status checked = segment->check_slots(); !checked.ok()) return checked;
  return segment;
}

// Takes checked copies of everything that later code indexes or adds with.
Status Segment::check_header() {
  header_ = std::launder(reinterpret_cast<SegmentHeader*>(base_));
  const SegmentHeader& header = *header_;
  if (header.magic != kSegmentMagic) return refused("wrong magic");
  if (header.version != kLayoutVersion)
    return refused("layout version " + std::to_string(header.version) + ", expected " +
                   std::to_string(kLayoutVersion));
  if (header.header_bytes != sizeof(SegmentHeader)) return refused("another header size");

  class_count_ = header.class_count;
  if (class_count_ == 0 || class_count_ > kMaxClasses) return refused("bad class count");
  std::array<SlotClassSpec, kMaxClasses> specs{};
  for (std::uint32_t i = 0; i < class_count_; ++i)
    specs[i] = {header.class_bytes[i], header.class_slots[i]};
  const std::span<const SlotClassSpec> classes(specs.data(), class_count_);
  block_count_ = header.block_count;
  block_bytes_ = header.block_bytes;
  if (const std::string fault = fault_of(classes, block_bytes_, block_count_); !fault.empty())
    return refused(fault);
  const Plan plan = plan_of(classes, block_bytes_, block_count_);
  if (plan.total_bytes != size_bytes_ || header.segment_bytes != size_bytes_)
    return refused("its tables and its size disagree");
  if (header.slots_offset != plan.slots_offset || header.blocks_offset != plan.blocks_offset)
    return refused("its tables lie elsewhere");

  std::uint64_t payload = plan.payloads_offset;
  slot_count_ = 0;
  for (std::uint32_t i = 0; i < class_count_; ++i) {
    if (header.class_first[i] != slot_count_) return refused("its classes are no neighbours");
    const std::uint64_t bytes = specs[i].count * specs[i].payload_bytes;
    classes_[i] = {slot_count_, specs[i].count, {payload, bytes}, specs[i].payload_bytes};
    slot_count_ += specs[i].count;
    payload += bytes;
  }
  if (header.slot_count != slot_count_) return refused("its classes and its slots disagree");
  bitmap_words_ = (slot_count_ + 63) / 64;
  payload_begin_ = plan.payloads_offset;
  blocks_begin_ = plan.pool_offset;
  slots_ = reinterpret_cast<SlotHeader*>(base_ + plan.slots_offset);
  blocks_ = reinterpret_cast<BlockHeader*>(base_ + plan.blocks_offset);
  name_.assign(header.name.data(), strnlen(header.name.data(), header.name.size()));
  return Status::Ok();
}

Status Segment::check_slots() {
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    const Area payload = payload_of(i);
    if (slots_[i].payload_offset != payload.offset || slots_[i].payload_bytes != payload.bytes)
      return refused("slot " + std::to_string(i) + " lies elsewhere");
  }
  for (std::uint32_t i = 0; i < block_count_; ++i)
    if (blocks_[i].offset != block_area(i).offset)
      return refused("overflow block " + std::to_string(i) + " lies elsewhere");
  return Status::Ok();
}

Area Segment::payload_of(std::uint32_t index) const {
  for (const ClassTable& c : classes_)
    if (index - c.first < c.slots)  // unsigned: also false below `first`
      return {c.payloads.offset + (index - c.first) * c.payload_bytes, c.payload_bytes};
  return {};
}

Area Segment::block_area(std::uint32_t block) const {
  return {blocks_begin_ + block * block_bytes_, block_bytes_};
}

std::span<std::byte> Segment::payload_at(std::uint32_t index, std::uint64_t offset,
                                         std::uint64_t bytes) {
  if (!payload_of(index).holds(offset, bytes)) return {};
  return {base_ + offset, bytes};
}

std::span<std::byte> Segment::bytes_at(std::uint64_t offset, std::uint64_t bytes) {
  const Area everything{payload_begin_, size_bytes_ - payload_begin_};
  if (!everything.holds(offset, bytes)) return {};
  return {base_ + offset, bytes};
}

}  // namespace gslice
