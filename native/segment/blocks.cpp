// The overflow pool: output areas for answers that do not fit behind their inputs, and for requests
// that run again. Exhaustion fails one request and never waits.
#include <algorithm>

#include "segment/segment.hpp"

namespace gslice {

namespace {

BlockWord word_of(BlockHeader& block) { return BlockWord::unpack(block.word.load()); }

bool swap_block(BlockHeader& block, BlockWord seen, BlockWord next) {
  std::uint64_t expected = seen.pack();
  return block.word.compare_exchange(expected, next.pack());
}

}  // namespace

// A free block, taken for the slot; BlockRef::pack, or 0 if all are in use.
std::uint64_t Segment::take_block(std::uint32_t index, std::uint16_t owner) {
  for (std::uint32_t i = 0; i < block_count_; ++i) {
    const BlockWord seen = word_of(blocks_[i]);
    if (seen.state != BlockState::kFree) continue;
    const BlockWord used{BlockState::kUsed, static_cast<std::uint16_t>(index), owner,
                         seen.generation + 1};
    if (swap_block(blocks_[i], seen, used)) return BlockRef{i + 1, used.generation}.pack();
  }
  return 0;
}

void Segment::move_block(std::uint64_t ref, BlockState to, std::uint16_t owner) {
  const BlockRef named = BlockRef::unpack(ref);
  if (named.number == 0 || named.number > block_count_) return;
  BlockHeader& block = blocks_[named.number - 1];
  const BlockWord seen = word_of(block);
  if (seen.state != BlockState::kUsed || seen.generation != named.generation) return;
  swap_block(block, seen, {to, seen.slot, owner, seen.generation});
}

void Segment::free_block(std::uint64_t ref) { move_block(ref, BlockState::kFree, kNobody); }

void Segment::quarantine_block(std::uint64_t ref, std::uint16_t instance) {
  move_block(ref, BlockState::kQuarantined, instance);
}

// The slot's output area is the block from now on. By the slot's owner.
void Segment::use_block(std::uint32_t index, std::uint64_t ref) {
  const Area area = block_area(BlockRef::unpack(ref).number - 1);
  slots_[index].output_offset = area.offset;
  slots_[index].output_bytes = area.bytes;
  slots_[index].output_block = ref;
}

// Ends blocks of `owner` that their slot does not know of: he died between taking and recording.
void Segment::sweep_blocks(std::uint16_t owner, BlockState to) {
  for (std::uint32_t i = 0; i < block_count_; ++i) {
    const BlockWord seen = word_of(blocks_[i]);
    if (seen.state != BlockState::kUsed || seen.owner != owner) continue;
    const std::uint64_t ref = BlockRef{i + 1, seen.generation}.pack();
    if (seen.slot < slot_count_ && slots_[seen.slot].output_block == ref) continue;
    move_block(ref, to, to == BlockState::kFree ? kNobody : owner);
  }
}

Status Segment::reserve_output(Ticket ticket, std::uint16_t instance, std::uint64_t bytes) {
  if (ticket.slot >= slot_count_) return Status::Error(Code::kInternal, "no such slot");
  const SlotWord seen = load_word(ticket.slot);
  if (!names(ticket, seen) || seen.state != SlotState::kClaimed || seen.owner != instance)
    return Status::Error(Code::kFailedPrecondition, "the slot is not claimed by this instance");
  SlotHeader& slot = slots_[ticket.slot];
  if (bytes <= slot.output_bytes) return Status::Ok();
  if (bytes > block_bytes_ || block_count_ == 0)
    return Status::Error(Code::kFailedPrecondition,
                         "the answer needs " + std::to_string(bytes) + " bytes, but an answer of " +
                             name_ + " may have at most " +
                             std::to_string(std::max(block_bytes_, slot.output_bytes)));
  const std::uint64_t ref = take_block(ticket.slot, instance);
  if (ref == 0)
    return Status::Error(Code::kResourceExhausted,
                         "all overflow blocks of " + name_ + " are in use");
  free_block(slot.output_block);
  use_block(ticket.slot, ref);
  return Status::Ok();
}

std::uint32_t Segment::blocks_in_use() {
  std::uint32_t used = 0;
  for (std::uint32_t i = 0; i < block_count_; ++i)
    if (word_of(blocks_[i]).state != BlockState::kFree) ++used;
  return used;
}

// QUARANTINED blocks of `instance` -> FREE. How many.
std::uint32_t Segment::release_blocks(std::uint16_t instance) {
  std::uint32_t released = 0;
  for (std::uint32_t i = 0; i < block_count_; ++i) {
    const BlockWord seen = word_of(blocks_[i]);
    if (seen.state != BlockState::kQuarantined || seen.owner != instance) continue;
    if (swap_block(blocks_[i], seen, {BlockState::kFree, 0, kNobody, seen.generation})) ++released;
  }
  return released;
}

bool Segment::owns_block(std::uint16_t instance) {
  for (std::uint32_t i = 0; i < block_count_; ++i) {
    const BlockWord seen = word_of(blocks_[i]);
    if (seen.state == BlockState::kQuarantined && seen.owner == instance) return true;
  }
  return false;
}

}  // namespace gslice
