// The fakes' one file format: a line is a record, a record is key=value pairs between tabs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fake {

class Fields {
 public:
  // Pairs after the first of a key are dropped.
  static Fields parse(std::string_view line);

  std::string text(const std::string& key, const std::string& otherwise = "") const;
  // Ends the process on a value that is no number: a test wrote it, and must see it.
  std::int64_t number(const std::string& key, std::int64_t otherwise) const;

 private:
  std::map<std::string, std::string> values_;
};

// An absent file has no records.
std::vector<Fields> read_records(const std::filesystem::path& path);

}  // namespace fake
