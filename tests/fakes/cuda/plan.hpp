// Faults and delays that a test plans, in the file `plan` of GSLICE_FAKE_GPU: a record a rule.
//
//   id        a name for the rule
//   on        a pattern (fnmatch): an entry point such as cuMemAlloc_v2, or what a stream does:
//   h2d,
//             d2h, d2d, memset, kernel, host, graph, and each part of a graph besides
//   action    fail    the entry returns `code`; an operation ends with it, and the device is lost
//             delay   sleeps `us`
//             hold    waits for as long as the file held/ID is there
//             orphan  a process of its own does the operation, when `us` have passed and held/ID is
//                     gone: like a GPU, it also does it when the process that asked is dead by then
//   sticky    1: `fail` of an entry loses the device too
//   nth       of the matches in one process, the first that is meant (1)
//   times     matches in one process that are meant from there on (fail: 1, else all)
//   total     matches of all processes together that are meant (all)
//   process   only processes whose command line has this in it
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "types.hpp"

namespace fake {

class Plan {
 public:
  // Does what is planned for a call of the entry: CUDA_SUCCESS, or what it is to return.
  CUresult meet_call(const char* function);
  // Does the operation, with what is planned for it.
  CUresult meet_operation(const char* kind, const std::function<CUresult()>& run);

 private:
  struct Rule {
    std::string id, on, action;
    CUresult code = CUDA_SUCCESS;
    bool sticky = false;
    std::int64_t us = 0, nth = 1, times = 0, total = 0;
  };

  // The rules that this match of `what` is meant by.
  std::vector<Rule> meant(std::string_view what);
  void reload();
  bool takes_one_of_total(const Rule& rule) const;
  std::string hold_path(const Rule& rule) const;

  std::mutex mutex_;
  std::string stamp_;  // of the file that was read
  std::vector<Rule> rules_;
  std::map<std::string, std::int64_t> matches_;  // by rule
};

}  // namespace fake
