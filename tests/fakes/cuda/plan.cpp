#include "plan.hpp"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <limits>

#include "core.hpp"

namespace fake {
namespace {

constexpr std::int64_t kPollUs = 200;

void sleep_us(std::int64_t us) {
  timespec left{static_cast<time_t>(us / 1'000'000), us % 1'000'000 * 1000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

bool is_call(std::string_view on) { return on.starts_with("cu"); }

// In a child that the process's death does not take along: the GPU of a process that was killed.
// After the fork it only makes system calls and copies, as a child of many threads must.
CUresult run_in_orphan(const std::function<CUresult()>& run, std::int64_t us,
                       const std::string& hold, const std::string& counter) {
  std::atomic<std::uint64_t>& landed = Core::get().counters->at("orphans.landed");
  const pid_t child = fork();
  if (child < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  if (child == 0) {
    setsid();
    close_range(0, ~0U, 0);  // nobody is to wait for the end of a pipe that this one holds
    sleep_us(us);
    while (access(hold.c_str(), F_OK) == 0) sleep_us(kPollUs);
    const CUresult result = run();
    landed.fetch_add(1);
    _exit(result == CUDA_SUCCESS ? 0 : 1);
  }
  Core::get().count(counter);  // from here on the process can be killed
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED;
}

}  // namespace

CUresult Plan::meet_call(const char* function) {
  CUresult result = CUDA_SUCCESS;
  for (const Rule& rule : meant(function)) {
    if (rule.action == "delay") sleep_us(rule.us);
    if (rule.action == "hold")
      while (access(hold_path(rule).c_str(), F_OK) == 0) sleep_us(kPollUs);
    if (rule.action != "fail") continue;
    result = rule.code;
    if (rule.sticky) Core::get().lose(result, 0);
  }
  return result;
}

CUresult Plan::meet_operation(const char* kind, const std::function<CUresult()>& run) {
  const Core& core = Core::get();
  for (const Rule& rule : meant(kind)) {
    if (rule.action == "delay") sleep_us(rule.us);
    if (rule.action == "hold")
      while (access(hold_path(rule).c_str(), F_OK) == 0 && core.lost() == CUDA_SUCCESS)
        sleep_us(kPollUs);
    if (rule.action == "fail") return rule.code;
    if (rule.action == "orphan")
      return run_in_orphan(run, rule.us, hold_path(rule), "plan." + rule.id);
  }
  return core.lost() == CUDA_SUCCESS ? run() : core.lost();
}

std::vector<Plan::Rule> Plan::meant(std::string_view what) {
  std::vector<Rule> rules;
  if (Machine::get().directory().empty()) return rules;
  const std::lock_guard lock(mutex_);
  reload();
  for (const Rule& rule : rules_) {
    if (is_call(rule.on) != is_call(what)) continue;
    if (fnmatch(rule.on.c_str(), std::string(what).c_str(), 0) != 0) continue;
    const std::int64_t match = ++matches_[rule.id];
    if (match < rule.nth || match - rule.nth >= rule.times) continue;
    if (!takes_one_of_total(rule)) continue;
    if (rule.action != "orphan") Core::get().count("plan." + rule.id);
    rules.push_back(rule);
  }
  return rules;
}

void Plan::reload() {
  const std::filesystem::path path = Machine::get().directory() / "plan";
  struct stat now{};
  const std::string stamp =
      stat(path.c_str(), &now) != 0
          ? ""
          : std::to_string(now.st_ino) + ":" + std::to_string(now.st_mtim.tv_sec) + ":" +
                std::to_string(now.st_mtim.tv_nsec) + ":" + std::to_string(now.st_size);
  if (stamp == stamp_) return;
  stamp_ = stamp;
  rules_.clear();
  for (const Fields& fields : read_records(path)) {
    if (command_line().find(fields.text("process")) == std::string::npos) continue;
    Rule rule{.id = fields.text("id"), .on = fields.text("on"), .action = fields.text("action")};
    rule.code = static_cast<CUresult>(fields.number("code", CUDA_ERROR_LAUNCH_FAILED));
    rule.sticky = fields.number("sticky", 0) != 0;
    rule.us = fields.number("us", 0);
    rule.nth = fields.number("nth", 1);
    rule.times = fields.number(
        "times", rule.action == "fail" ? 1 : std::numeric_limits<std::int64_t>::max());
    rule.total = fields.number("total", 0);
    rules_.push_back(rule);
  }
}

// Files that only one process can make count for all of them.
bool Plan::takes_one_of_total(const Rule& rule) const {
  if (rule.total == 0) return true;
  const std::filesystem::path directory = Machine::get().directory() / "taken";
  std::filesystem::create_directories(directory);
  for (std::int64_t i = 0; i < rule.total; ++i) {
    const std::filesystem::path path = directory / (rule.id + "." + std::to_string(i));
    const int fd = open(path.c_str(), O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) continue;
    close(fd);
    return true;
  }
  return false;
}

std::string Plan::hold_path(const Rule& rule) const {
  return (Machine::get().directory() / "held" / rule.id).string();
}

}  // namespace fake
