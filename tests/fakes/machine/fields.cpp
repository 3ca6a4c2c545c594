#include "fields.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace fake {

Fields Fields::parse(std::string_view line) {
  Fields fields;
  while (!line.empty()) {
    const std::string_view pair = line.substr(0, line.find('\t'));
    line.remove_prefix(std::min(line.size(), pair.size() + 1));
    if (const std::size_t equals = pair.find('='); equals != std::string_view::npos)
      fields.values_.emplace(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return fields;
}

std::string Fields::text(const std::string& key, const std::string& otherwise) const {
  const auto found = values_.find(key);
  return found == values_.end() ? otherwise : found->second;
}

std::int64_t Fields::number(const std::string& key, std::int64_t otherwise) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return otherwise;
  char* end = nullptr;
  const std::int64_t value = std::strtoll(found->second.c_str(), &end, 10);
  if (found->second.empty() || *end != '\0') {
    std::fprintf(stderr, "fake GPU: %s=%s is not a number\n", key.c_str(), found->second.c_str());
    std::abort();
  }
  return value;
}

std::vector<Fields> read_records(const std::filesystem::path& path) {
  std::vector<Fields> records;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) records.push_back(Fields::parse(line));
  return records;
}

}  // namespace fake
