#include "mps.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace fake {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

int connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return -1;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

std::string read_command_line() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  std::string line = text.str();
  std::ranges::replace_if(line, [](char c) { return c == '\0' || c == '\t' || c == '\n'; }, ' ');
  return line;
}

}  // namespace

const std::string& command_line() {
  static const auto* line = new std::string(read_command_line());
  return *line;
}

CUresult MpsClient::attach() {
  std::string directory = variable("CUDA_MPS_PIPE_DIRECTORY");
  if (directory.empty()) directory = variable("GSLICE_FAKE_GPU") + "/nvidia-mps";
  const int fd = connect_to(directory + "/control");
  if (fd < 0) return CUDA_SUCCESS;
  const std::string hello =
      "attach\tpid=" + std::to_string(getpid()) + "\tuid=" + std::to_string(getuid()) +
      "\tpercentage=" + variable("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") +
      "\tlimit=" + variable("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT") +
      "\tpartition=" + variable("CUDA_MPS_SM_PARTITION") + "\tcommand=" + command_line() + "\n";
  std::string line;
  if (send(fd, hello.data(), hello.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(hello.size()))
    for (char c = 0; recv(fd, &c, 1, 0) == 1 && c != '\n';) line += c;
  reply_ = Fields::parse(line);
  const auto error = static_cast<CUresult>(
      reply_.number("error", line.empty() ? CUDA_ERROR_MPS_CONNECTION_FAILED : CUDA_SUCCESS));
  if (error != CUDA_SUCCESS)
    close(fd);
  else
    socket_ = fd;
  return error;
}

void MpsClient::report_fault(int code, const std::string& gpu_uuid) const {
  const std::string line = "fault\tcode=" + std::to_string(code) + "\tgpu=" + gpu_uuid + "\n";
  // A daemon that has gone has no other client to tell either.
  [[maybe_unused]] const auto sent = send(socket_, line.data(), line.size(), MSG_NOSIGNAL);
}

int MpsClient::sms(int whole, int step) const {
  if (!attached()) return whole;
  if (const auto mine = reply_.number("partition_sms", 0)) return static_cast<int>(mine);
  const auto share = static_cast<int>(reply_.number("millipercent", 100'000) * whole / 100'000);
  return std::max(step, share / step * step);
}

std::uint64_t MpsClient::memory_limit_bytes(const std::string& gpu_uuid) const {
  return static_cast<std::uint64_t>(reply_.number("limit." + gpu_uuid, -1));
}

}  // namespace fake
