// What an adapted archive has in place of `stderr`: see grpc_server.cmake.
#include <cstdio>

extern "C" {
extern __attribute__((visibility("hidden"))) FILE* gslice_archive_stderr;
FILE* gslice_archive_stderr = stderr;
}
