// What the header of a claimed slot says, checked: it was written by another process.
#include <algorithm>

#include "segment/segment.hpp"

namespace gslice {

namespace {

// True: `bytes` is what dims and data type make (anything, for BYTES).
bool size_agrees(const TensorRecord& tensor) {
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < tensor.rank; ++i) {
    const std::int64_t dim = tensor.dims[i];
    if (dim < 0) return false;
    if (__builtin_mul_overflow(elements, static_cast<std::uint64_t>(dim), &elements)) return false;
  }
  const std::uint64_t element_bytes = dtype_info(tensor.dtype).element_bytes;
  if (element_bytes == 0) return true;
  std::uint64_t bytes = 0;
  return !__builtin_mul_overflow(elements, element_bytes, &bytes) && bytes == tensor.bytes;
}

// Cut where a UTF-8 character begins, so that the rest is still text.
std::size_t text_bytes(std::string_view text) {
  if (text.size() <= kMessageBytes) return text.size();
  std::size_t cut = kMessageBytes;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;
  return cut;
}

}  // namespace

// Empty: sound. `rows_max` of the signature; 0: not batchable.
std::string_view Segment::header_fault(std::uint32_t index, std::uint32_t rows_max) {
  const SlotHeader& slot = slots_[index];
  if (slot.input_count > kMaxTensors || slot.output_count > kMaxTensors)
    return "the slot has too many tensors";
  const std::uint32_t rows = slot.rows;
  if (rows_max > 0 && (rows == 0 || rows > rows_max)) return "the slot has a bad number of rows";
  const Area payload = payload_of(index);
  for (std::uint32_t i = 0; i < slot.input_count; ++i) {
    const TensorRecord& input = slot.inputs[i];
    if (input.rank > kMaxRank || input.dtype >= DType::kInvalid)
      return "the slot has a tensor of no valid type";
    if (!payload.holds(input.offset, input.bytes)) return "the slot has a tensor outside of it";
    if (!size_agrees(input)) return "the slot has a tensor whose size and shape disagree";
    if (rows_max > 0 && (input.rank == 0 || input.dims[0] != rows))
      return "the slot has a tensor with another number of rows";
  }
  return owns_output(index) ? std::string_view{} : "the slot's output area is not its own";
}

bool Segment::owns_output(std::uint32_t index) {
  const SlotHeader& slot = slots_[index];
  const BlockRef ref = BlockRef::unpack(slot.output_block);
  if (ref.number == 0) return payload_of(index).holds(slot.output_offset, slot.output_bytes);
  if (ref.number > block_count_) return false;
  const BlockWord block = BlockWord::unpack(blocks_[ref.number - 1].word.load());
  return block.state == BlockState::kUsed && block.generation == ref.generation &&
         block.slot == index &&
         block_area(ref.number - 1).holds(slot.output_offset, slot.output_bytes);
}

// Equal hashes are no proof: two requests share a batch only if all but their rows is equal.
bool Segment::same_shape(std::uint32_t index, std::uint32_t other) {
  const SlotHeader& a = slots_[index];
  const SlotHeader& b = slots_[other];
  if (a.input_count != b.input_count) return false;
  for (std::uint32_t i = 0; i < a.input_count; ++i) {
    const TensorRecord& x = a.inputs[i];
    const TensorRecord& y = b.inputs[i];
    if (x.dtype != y.dtype || x.rank != y.rank) return false;
    if (x.rank > 1 && !std::equal(x.dims.begin() + 1, x.dims.begin() + x.rank, y.dims.begin() + 1))
      return false;
  }
  return true;
}

void Segment::write_answer(std::uint32_t index, Code code, std::string_view message) {
  SlotHeader& slot = slots_[index];
  const std::size_t bytes = code == Code::kOk ? 0 : text_bytes(message);
  std::copy_n(message.begin(), bytes, slot.message.begin());
  slot.message_bytes = static_cast<std::uint32_t>(bytes);
  slot.code = static_cast<std::uint32_t>(code);
  slot.done_ns = now_ns();
}

}  // namespace gslice
