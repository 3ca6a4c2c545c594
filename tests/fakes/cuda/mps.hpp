// This process as a client of a (fake) MPS control daemon.
#pragma once

#include <cstdint>
#include <string>

#include "../machine/fields.hpp"
#include "types.hpp"

namespace fake {

// Of this process, its words apart by spaces.
const std::string& command_line();

class MpsClient {
 public:
  // Attaches to the daemon of CUDA_MPS_PIPE_DIRECTORY. Where none listens the process runs outside
  // MPS, silently, as it does on a real machine: attached() tells. The default directory is the
  // machine's own: a real daemon may be at home in /tmp/nvidia-mps.
  CUresult attach();
  bool attached() const { return socket_ >= 0; }
  // To every client of the server: an operation of this one ended with `code`.
  void report_fault(int code, const std::string& gpu_uuid) const;

  std::string gpus() const { return reply_.text("gpus"); }  // UUIDs between commas
  // Of the SMs of a GPU, those that this client may use: rounded down to the GPU's step.
  int sms(int whole, int step) const;
  std::uint64_t memory_limit_bytes(const std::string& gpu_uuid) const;  // UINT64_MAX: none
  std::int64_t server_pid() const { return reply_.number("server", 0); }

 private:
  int socket_ = -1;  // open for as long as the process is a client
  Fields reply_;
};

}  // namespace fake
