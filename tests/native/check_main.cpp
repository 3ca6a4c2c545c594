// Runs every registered test, or those whose name contains the first argument.
#include <cstring>

#include "check.hpp"

int main(int argc, char** argv) {
  int run = 0, failed = 0;
  for (const gslice::check::Test& test : gslice::check::tests()) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
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
