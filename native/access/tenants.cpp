#include "access/tenants.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "wire/text.hpp"

namespace gslice {
namespace {

using wire::concat;
using wire::quoted;

constexpr std::int64_t kNsPerMs = 1'000'000;
constexpr std::uint32_t kAny = std::numeric_limits<std::uint32_t>::max();

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.ends_with('*')) return name.starts_with(pattern.substr(0, pattern.size() - 1));
  return name == pattern;
}

}  // namespace

Tenants::Tenants(std::uint16_t frontend, std::vector<Tenant> tenants,
                 std::shared_ptr<QuotaBoard> board)
    : frontend_(frontend), tenants_(std::move(tenants)), board_(std::move(board)) {}

Result<std::unique_ptr<Tenants>> Tenants::open(std::uint16_t frontend, std::vector<Tenant> tenants,
                                               int board_fd) {
  if (tenants.size() > kMaxTenants)
    return Status::Error(Code::kInvalidArgument,
                         concat(tenants.size(), " tenants; at most ", kMaxTenants, " are known"));
  auto board = QuotaBoard::open(board_fd);
  if (!board.ok()) return board.status();
  return std::unique_ptr<Tenants>(new Tenants(frontend, std::move(tenants), board.take()));
}

TenantId Tenants::find(std::string_view name) const {
  const auto found = std::ranges::find(tenants_, name, &Tenant::name);
  return found == tenants_.end() ? kNoTenant : static_cast<TenantId>(found - tenants_.begin());
}

Status Tenants::check_function(TenantId tenant, std::string_view function) const {
  const Tenant& asks = at(tenant);
  if (std::ranges::any_of(asks.functions,
                          [&](const auto& each) { return matches(each, function); }))
    return Status::Ok();
  return Status::Error(Code::kPermissionDenied,
                       concat("it is not one of tenant ", quoted(asks.name)));
}

Status Tenants::begin(TenantId tenant, std::int64_t now) {
  const auto index = static_cast<std::size_t>(tenant);
  const Tenant& asks = at(tenant);
  if (!board_->begin(index, frontend_, asks.requests_max != 0 ? asks.requests_max : kAny))
    return Status::Error(Code::kResourceExhausted,
                         concat("tenant ", quoted(asks.name), " has ", asks.requests_max,
                                " requests under way, as many as it may"));
  if (asks.interval_ns == 0) return Status::Ok();
  const std::int64_t wait_ns = board_->take(index, asks.interval_ns, asks.burst, now);
  if (wait_ns == 0) return Status::Ok();
  board_->end(index, frontend_);
  const std::int64_t wait_ms = (wait_ns + kNsPerMs - 1) / kNsPerMs;
  Status status = Status::Error(
      Code::kResourceExhausted,
      concat("tenant ", quoted(asks.name), " has used up its rate; try again in ", wait_ms, " ms"));
  status.retry_after_ms = wait_ms;
  return status;
}

void Tenants::end(TenantId tenant) { board_->end(static_cast<std::size_t>(tenant), frontend_); }

void Tenants::begin_anew() { board_->clear(frontend_); }

void Tenants::go_on(TenantId tenant) {
  board_->begin(static_cast<std::size_t>(tenant), frontend_, kAny);
}

}  // namespace gslice
