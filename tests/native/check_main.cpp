// Runs every registered test; or those of the file that the first argument names, without folder
// and ending, and of these those whose name contains the second.
#include <cstring>

#include "check.hpp"

namespace {

bool is_of(const gslice::check::Test& test, const std::string& file) {
  return std::string(test.file).ends_with('/' + file + ".cpp");
}

}  // namespace

int main(int argc, char** argv) {
  int run = 0, failed = 0;
  for (const gslice::check::Test& test : gslice::check::tests()) {
    if (argc > 1 && !is_of(test, argv[1])) continue;
    if (argc > 2 && std::strstr(test.name, argv[2]) == nullptr) continue;
    ++run;
    try {
      test.body();
    } catch (const gslice::check::Failure&) {
      ++failed;
      std::cerr << "FAILED " << test.name << std::endl;
    } catch (const std::exception& error) {
      ++failed;
      std::cerr << "FAILED " << test.name << ": threw " << error.what() << std::endl;
    }
  }
  std::cout << run << " tests, " << failed << " failed" << std::endl;
  return run == 0 || failed > 0 ? 1 : 0;
}
