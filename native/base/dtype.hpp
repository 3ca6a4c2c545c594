// KServe v2 data types: the wire name and the size of one element.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace gslice {

enum class DType : std::uint8_t {
  kBool,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFp16,
  kBf16,
  kFp32,
  kFp64,
  kBytes,
  kInvalid,
};

struct DTypeInfo {
  std::string_view name;
  std::uint32_t element_bytes;  // 0: variable (BYTES)
};

inline constexpr std::array<DTypeInfo, 14> kDTypes{{
    {"BOOL", 1},
    {"UINT8", 1},
    {"UINT16", 2},
    {"UINT32", 4},
    {"UINT64", 8},
    {"INT8", 1},
    {"INT16", 2},
    {"INT32", 4},
    {"INT64", 8},
    {"FP16", 2},
    {"BF16", 2},
    {"FP32", 4},
    {"FP64", 8},
    {"BYTES", 0},
}};

inline DType dtype_from_name(std::string_view name) {
  for (std::size_t i = 0; i < kDTypes.size(); ++i)
    if (kDTypes[i].name == name) return static_cast<DType>(i);
  return DType::kInvalid;
}
inline const DTypeInfo& dtype_info(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)]; }

}  // namespace gslice
