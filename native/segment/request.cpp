// What the header of a claimed slot says: it was written by another process, and may be rewritten.
#include <algorithm>

#include "segment/segment.hpp"

namespace gslice {

namespace {

// Cut where a UTF-8 character begins, so that the rest is still text.
std::size_t text_bytes(std::string_view text) {
  if (text.size() <= kMessageBytes) return text.size();
  std::size_t cut = kMessageBytes;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;
  return cut;
}

}  // namespace

std::optional<Area> Segment::output_area(std::uint32_t index) {
  const SlotHeader& slot = slots_[index];
  const Area area{read_once(slot.output_offset), read_once(slot.output_bytes)};
  const BlockRef ref = BlockRef::unpack(slot.output_block);
  Area own = payload_of(index);
  if (ref.number != 0) {
    if (ref.number > block_count_) return std::nullopt;
    const BlockWord block = BlockWord::unpack(blocks_[ref.number - 1].word.load());
    if (block.state != BlockState::kUsed || block.generation != ref.generation ||
        block.slot != index)
      return std::nullopt;
    own = block_area(ref.number - 1);
  }
  return own.holds(area.offset, area.bytes) ? std::optional(area) : std::nullopt;
}

// Equal hashes are no proof: two requests share a batch only if all but their rows is equal. A
// damaged header is like no other, and its request is left alone with it.
bool Segment::same_shape(std::uint32_t index, std::uint32_t other) {
  const SlotHeader& a = slots_[index];
  const SlotHeader& b = slots_[other];
  const std::uint32_t count = read_once(a.input_count);
  if (count > kMaxTensors || count != read_once(b.input_count)) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    const TensorRecord x = read_once(a.inputs[i]);
    const TensorRecord y = read_once(b.inputs[i]);
    if (x.dtype != y.dtype || x.rank != y.rank || x.rank > kMaxRank) return false;
    if (x.rank > 1 && !std::equal(x.dims.begin() + 1, x.dims.begin() + x.rank, y.dims.begin() + 1))
      return false;
  }
  return true;
}

void Segment::write_answer(std::uint32_t index, Code code, std::string_view message,
                           const RunStamps& stamps) {
  SlotHeader& slot = slots_[index];
  const std::size_t bytes = code == Code::kOk ? 0 : text_bytes(message);
  std::copy_n(message.begin(), bytes, slot.message.begin());
  slot.message_bytes = static_cast<std::uint32_t>(bytes);
  slot.code = static_cast<std::uint32_t>(code);
  slot.compute_ns = stamps.compute_ns;
  slot.computed_ns = stamps.computed_ns;
  slot.done_ns = stamps.done_ns;
}

}  // namespace gslice
