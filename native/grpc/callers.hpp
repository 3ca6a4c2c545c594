// Who calls: API keys, by the SHA-256 of each, and what its holder may send requests for.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "access/tenants.hpp"
#include "base/status.hpp"

namespace gslice::grpc {

struct KnownKey {
  std::string name;
  std::array<unsigned char, 32> digest{};
  bool infers = false;  // requests are taken from whoever shows it
  TenantId tenant = kNoTenant;
};

class Callers {
 public:
  // kUnimplemented: this build cannot hash.
  static Result<Callers> open(std::vector<KnownKey> keys, bool anonymous_infers);

  // Whose quotas hold for requests of a call with these headers, each empty if it has none; what it
  // does and says is what gslice/core/access.py does and says. kUnauthenticated: the key is
  // not known, or one is needed. kPermissionDenied: it is not for requests.
  Result<TenantId> identify(std::string_view authorization, std::string_view api_key) const;

 private:
  Callers(std::vector<KnownKey> keys, bool anonymous_infers)
      : keys_(std::move(keys)), anonymous_infers_(anonymous_infers) {}
  Result<TenantId> known(std::string_view key) const;

  std::vector<KnownKey> keys_;
  bool anonymous_infers_;
};

}  // namespace gslice::grpc
