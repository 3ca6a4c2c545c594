// Creation and opening of a segment: what is refused, and that no spoiled header leads outside.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "segment_fixture.hpp"

using namespace gslice;
using namespace gslice::test;

namespace {

// A memfd like a segment's, whose bytes a test may spoil before it is opened.
class Copy {
 public:
  explicit Copy(Segment& segment, bool sealed = true)
      : bytes_(segment.size_bytes()), fd_(memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    CHECK(fd_ >= 0);
    std::vector<std::byte> all(bytes_);
    CHECK(pread(segment.fd(), all.data(), bytes_, 0) == static_cast<ssize_t>(bytes_));
    CHECK(pwrite(fd_, all.data(), bytes_, 0) == static_cast<ssize_t>(bytes_));
    if (sealed) CHECK(fcntl(fd_, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  }
  ~Copy() { close(fd_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  template <typename T>
  void write(std::size_t at, T value) {
    CHECK(pwrite(fd_, &value, sizeof(value), static_cast<off_t>(at)) == sizeof(value));
  }
  template <typename T>
  T read(std::size_t at) {
    T value{};
    CHECK(pread(fd_, &value, sizeof(value), static_cast<off_t>(at)) == sizeof(value));
    return value;
  }
  void lengthen(std::uint64_t bytes) {
    CHECK(ftruncate(fd_, static_cast<off_t>(bytes_ + bytes)) == 0);
  }
  bool opens() { return Segment::open(fd_).ok(); }

 private:
  std::uint64_t bytes_;
  int fd_;
};

}  // namespace

TEST(create_refuses_bad_specs) {
  const auto refuses = [](const SegmentSpec& spec) {
    auto created = Segment::create(spec);
    return !created.ok() && created.status().code == Code::kInvalidArgument;
  };
  CHECK(refuses(spec_of({})));
  CHECK(refuses(spec_of({{kPage, 0}})));
  CHECK(refuses(spec_of({{kPage - 1, 1}})));
  CHECK(refuses(spec_of({{0, 1}})));
  CHECK(refuses(spec_of({{~std::uint64_t{0} - kPage + 1, 1}})));
  CHECK(refuses(spec_of({{2 * kPage, 1}, {kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, 1}, {kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, 1}, {2 * kPage, 1}, {3 * kPage, 1}, {4 * kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, kMaxSlots}, {2 * kPage, 1}})));
  CHECK(refuses(spec_of({{kPage, 1}}, kMaxBlocks + 1)));
  SegmentSpec unnamed = spec_of();
  unnamed.name.clear();
  CHECK(refuses(unnamed));
  unnamed.name.assign(128, 'x');
  CHECK(refuses(unnamed));
  SegmentSpec odd_block = spec_of();
  odd_block.block_bytes = 17;
  CHECK(refuses(odd_block));
}

TEST(created_segment_is_sealed_and_idle) {
  Fixture f(spec_of({{kPage, 3}, {4 * kPage, 2}}));
  CHECK(ftruncate(f->fd(), 0) != 0);
  CHECK(ftruncate(f->fd(), static_cast<off_t>(f->size_bytes() * 2)) != 0);
  CHECK_EQ(f->slot_count(), 5u);
  CHECK_EQ(f->name(), "f");
  check_idle(*f);
}

TEST(another_mapping_sees_the_same_slots) {
  Fixture f;
  auto opened = Segment::open(f->fd());
  CHECK(opened.ok());
  Segment& other = *opened.value();
  CHECK_EQ(other.name(), "f");
  CHECK_EQ(other.header().generation, f->header().generation);
  const Ticket ticket = submit(other);
  CHECK(state_of(*f, ticket) == SlotState::kQueued);
  CHECK_EQ(f.claim().size(), 1u);
  CHECK_EQ(f.complete(ticket), kFrontend);
  CHECK(other.is_done(ticket));
  other.release(ticket);
  check_idle(*f);
}

TEST(open_refuses_what_is_no_segment) {
  CHECK(!Segment::open(-1).ok());
  const int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(!Segment::open(plain).ok());
  CHECK(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  CHECK(!Segment::open(plain).ok());  // empty
  close(plain);

  Fixture f;
  CHECK(Copy(*f).opens());
  CHECK(!Copy(*f, false).opens());  // could be shortened under us
  Copy longer(*f);
  longer.lengthen(kPage);
  CHECK(!longer.opens());
}

TEST(open_refuses_spoiled_headers) {
  Fixture f(spec_of({{kPage, 3}, {4 * kPage, 2}}));
  const auto refuses32 = [&](std::size_t at, std::uint32_t value) {
    Copy copy(*f);
    copy.write(at, value);
    return !copy.opens();
  };
  const auto refuses64 = [&](std::size_t at, std::uint64_t value) {
    Copy copy(*f);
    copy.write(at, value);
    return !copy.opens();
  };
  CHECK(refuses64(offsetof(SegmentHeader, magic), 1));
  CHECK(refuses32(offsetof(SegmentHeader, version), kLayoutVersion + 1));
  CHECK(refuses32(offsetof(SegmentHeader, header_bytes), 64));
  CHECK(refuses64(offsetof(SegmentHeader, segment_bytes), 0));
  for (const std::uint32_t count : {0u, 1u, 4u, 1025u, ~0u}) {
    CHECK(refuses32(offsetof(SegmentHeader, slot_count), count));
    CHECK(refuses32(offsetof(SegmentHeader, class_count), count));
    CHECK(refuses32(offsetof(SegmentHeader, block_count), count));
    CHECK(refuses32(offsetof(SegmentHeader, class_first) + sizeof(std::uint32_t), count));
    CHECK(refuses32(offsetof(SegmentHeader, class_slots), count));
  }
  for (const std::uint64_t offset : {std::uint64_t{0}, kPage, ~std::uint64_t{0}, ~kPage + 1}) {
    CHECK(refuses64(offsetof(SegmentHeader, slots_offset), offset));
    CHECK(refuses64(offsetof(SegmentHeader, blocks_offset), offset));
    if (offset != kPage) {
      CHECK(refuses64(offsetof(SegmentHeader, class_bytes), offset));
      CHECK(refuses64(offsetof(SegmentHeader, block_bytes), offset));
    }
    Copy copy(*f);
    const auto slots = copy.read<std::uint64_t>(offsetof(SegmentHeader, slots_offset));
    copy.write(slots + sizeof(SlotHeader) + offsetof(SlotHeader, payload_offset), offset);
    CHECK(!copy.opens());
  }
}

// Whatever four bytes of the header are spoiled: opening fails, or the segment works within bounds.
TEST(open_survives_any_spoiled_header_word) {
  Fixture f(spec_of({{kPage, 2}}, 1));
  const std::size_t fixed = offsetof(SegmentHeader, lock);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < fixed; at += 4) {
    for (const std::uint32_t value : {0u, 1u, 0x7fffffffu, ~0u}) {
      Copy copy(*f);
      copy.write(at, value);
      if (!copy.opens()) ++refused;
    }
  }
  CHECK(refused > 60);
}

TEST(bytes_at_stays_inside) {
  Fixture f;
  const std::uint64_t first = f->slot(0).payload_offset;
  const std::uint64_t size = f->size_bytes();
  CHECK_EQ(f->bytes_at(first, kPage).size(), kPage);
  CHECK_EQ(f->bytes_at(size - 1, 1).size(), 1u);
  CHECK(f->bytes_at(size - 1, 2).empty());
  CHECK(f->bytes_at(size, 1).empty());
  CHECK(f->bytes_at(first - 1, 1).empty());  // headers are no payload
  CHECK(f->bytes_at(0, 64).empty());
  CHECK(f->bytes_at(first, ~std::uint64_t{0}).empty());
  CHECK(f->bytes_at(~std::uint64_t{0}, 2).empty());
}
