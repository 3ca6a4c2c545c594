#include "access/quota_board.hpp"

#include <algorithm>
#include <new>
#include <string>

namespace gslice {
namespace {

Status refused(const std::string& why) {
  return Status::Error(Code::kInternal, "not a quota board of this build: " + why);
}

}  // namespace

Result<std::shared_ptr<QuotaBoard>> QuotaBoard::create() {
  auto memory = SharedMemory::create("gslice-quotas", sizeof(QuotaBoardHeader));
  if (!memory.ok()) return Status::Error(Code::kInternal, "quotas: " + memory.status().message);
  std::shared_ptr<QuotaBoard> board(new QuotaBoard(memory.take()));
  board->header_ = new (board->memory_.base()) QuotaBoardHeader;
  board->header_->magic = kQuotaBoardMagic;
  board->header_->version = kQuotaBoardVersion;
  board->header_->board_bytes = sizeof(QuotaBoardHeader);
  return board;
}

Result<std::shared_ptr<QuotaBoard>> QuotaBoard::open(int fd) {
  auto memory = SharedMemory::open(fd, sizeof(QuotaBoardHeader));
  if (!memory.ok()) return refused(memory.status().message);
  std::shared_ptr<QuotaBoard> board(new QuotaBoard(memory.take()));
  board->header_ = std::launder(reinterpret_cast<QuotaBoardHeader*>(board->memory_.base()));
  const QuotaBoardHeader& header = *board->header_;
  if (header.magic != kQuotaBoardMagic) return refused("wrong magic");
  if (header.version != kQuotaBoardVersion) return refused("another version");
  if (header.board_bytes != sizeof(QuotaBoardHeader)) return refused("another size");
  return board;
}

// The generic cell rate algorithm: one word is all that is remembered, and a compare-and-swap
// decides who of several front-ends takes what is left.
std::int64_t QuotaBoard::take(std::size_t tenant, std::int64_t interval_ns, std::uint32_t burst,
                              std::int64_t now) {
  Shared<std::int64_t>& used_until = header_->entries[tenant].used_until_ns;
  const std::int64_t ahead_ns = interval_ns * (std::max<std::uint32_t>(burst, 1) - 1);
  std::int64_t seen = used_until.load();
  for (;;) {
    const std::int64_t begins = std::max(seen, now);
    if (begins - now > ahead_ns) return begins - now - ahead_ns;
    if (used_until.compare_exchange(seen, begins + interval_ns)) return 0;
  }
}

// Counted first and looked at then: two front-ends may both refuse the last one, never both take
// it.
bool QuotaBoard::begin(std::size_t tenant, std::uint16_t frontend, std::uint32_t most) {
  header_->entries[tenant].under_way[frontend].fetch_add(1);
  if (under_way(tenant) <= most) return true;
  end(tenant, frontend);
  return false;
}

void QuotaBoard::end(std::size_t tenant, std::uint16_t frontend) {
  header_->entries[tenant].under_way[frontend].fetch_sub(1);
}

std::uint32_t QuotaBoard::under_way(std::size_t tenant) const {
  std::uint32_t sum = 0;
  for (const auto& each : header_->entries[tenant].under_way) sum += each.load();
  return sum;
}

void QuotaBoard::clear(std::uint16_t frontend) {
  for (QuotaEntry& entry : header_->entries) entry.under_way[frontend].store(0);
}

}  // namespace gslice
