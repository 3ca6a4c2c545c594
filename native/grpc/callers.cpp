#include "grpc/callers.hpp"

#include <algorithm>

#include "wire/text.hpp"

#if GSLICE_TLS
#include <openssl/crypto.h>
#include <openssl/sha.h>
#endif

namespace gslice::grpc {
namespace {

constexpr std::string_view kScheme = "bearer ";
constexpr std::size_t kKeyBytes = 512;  // more is no key

Status unauthenticated(std::string text) {
  return Status::Error(Code::kUnauthenticated, std::move(text));
}

Status unknown() { return unauthenticated("the API key is not known here"); }

bool same_letters(std::string_view text, std::string_view lower) {
  return std::ranges::equal(text, lower, [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
  });
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

Result<TenantId> Callers::identify(std::string_view authorization, std::string_view api_key) const {
  std::string_view key = api_key;
  if (!authorization.empty()) {
    if (!same_letters(authorization.substr(0, kScheme.size()), kScheme))
      return unauthenticated("authorization must be `Bearer KEY`");
    key = trimmed(authorization.substr(kScheme.size()));
    if (key.empty()) return unauthenticated("authorization must be `Bearer KEY`");
  }
  if (key.size() > kKeyBytes) return unknown();
  if (!key.empty() && !keys_.empty()) return known(key);
  if (anonymous_infers_) return kNoTenant;
  return unauthenticated(
      "an API key with the role infer is needed (send it as `authorization: Bearer KEY`)");
}

#if GSLICE_TLS

Result<Callers> Callers::open(std::vector<KnownKey> keys, bool anonymous_infers) {
  return Callers(std::move(keys), anonymous_infers);
}

Result<TenantId> Callers::known(std::string_view key) const {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  const KnownKey* found = nullptr;
  for (const KnownKey& each : keys_)  // all of them, so that the time taken tells nothing
    if (CRYPTO_memcmp(each.digest.data(), digest.data(), digest.size()) == 0) found = &each;
  if (found == nullptr) return unknown();
  if (found->infers) return found->tenant;
  return Status::Error(Code::kPermissionDenied,
                       wire::concat("key '", found->name, "' has not the role infer"));
}

#else

Result<Callers> Callers::open(std::vector<KnownKey>, bool) {
  return Status::Error(Code::kUnimplemented,
                       "the native front-end was built without OpenSSL, which API keys need: "
                       "install libssl-dev and build again, or set frontend: python");
}

Result<TenantId> Callers::known(std::string_view) const { return unknown(); }

#endif

}  // namespace gslice::grpc
