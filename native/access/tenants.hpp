// What tenants may do at a front-end: which functions they may use, how often, and with how many
// requests at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "access/quota_board.hpp"
#include "base/status.hpp"

namespace gslice {

using TenantId = std::int32_t;  // its place among the tenants
inline constexpr TenantId kNoTenant = -1;

struct Tenant {
  std::string name;
  std::vector<std::string> functions;  // `shop-*`: all whose names begin so
  std::int64_t interval_ns = 0;        // between two requests in the long run; 0: none
  std::uint32_t burst = 1;             // requests that may come at once
  std::uint32_t requests_max = 0;      // under way at a time; 0: any number
};

// Used by its front-end's one thread; the board is shared with other processes.
class Tenants {
 public:
  // kInvalidArgument: they are too many. kInternal: `board_fd` is no quota board.
  static Result<std::unique_ptr<Tenants>> open(std::uint16_t frontend, std::vector<Tenant> tenants,
                                               int board_fd);
  Tenants(const Tenants&) = delete;
  Tenants& operator=(const Tenants&) = delete;

  // kNoTenant: there is none of that name.
  TenantId find(std::string_view name) const;
  std::string_view name(TenantId tenant) const { return at(tenant).name; }

  // kPermissionDenied: the function is not one of the tenant's.
  Status check_function(TenantId tenant, std::string_view function) const;
  // A request that is now under way, until `end`. kResourceExhausted: the rate or the number is
  // used up; says when to come again, if that is known.
  Status begin(TenantId tenant, std::int64_t now);
  void end(TenantId tenant);
  // Nothing is under way at this front-end, as of now; what is goes on: it began when these were
  // not yet the tenants.
  void begin_anew();
  void go_on(TenantId tenant);

 private:
  Tenants(std::uint16_t frontend, std::vector<Tenant> tenants, std::shared_ptr<QuotaBoard> board);
  const Tenant& at(TenantId tenant) const { return tenants_[static_cast<std::size_t>(tenant)]; }

  std::uint16_t frontend_;
  std::vector<Tenant> tenants_;
  std::shared_ptr<QuotaBoard> board_;
};

}  // namespace gslice
