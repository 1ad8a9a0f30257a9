// The files that a job's standard input, output and error name: patterns expanded, opened, read and written
// as the calling user and never as root. What is the kernel's own (is_kernels_own()) is refused for
// everybody.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

#include "executor/os/act_as.h"
#include "schemas/job.h"
#include "schemas/job_spec.h"

namespace berth {

/// Who files are opened as (Caller of executor/executor.h).
struct FileOwner {
  uid_t uid = 0;
  gid_t gid = 0;
  std::string name;
};

/// Held while a file that was opened here is read, written or truncated (AccessAs).
class AsOwner {
 public:
  explicit AsOwner(const FileOwner& owner) : access_(owner.uid) {}

 private:
  AccessAs access_;
};

/// What the patterns of one job stand for.
struct PatternValues {
  JobId job_id = 0;
  std::string_view job_name;
  std::string_view user;
  std::optional<JobId> array_job_id = std::nullopt;  ///< of a task of an array
  std::optional<unsigned> array_task_id = std::nullopt;
};

/// %j: job id; %A: the array's job id, else the job's; %a: number of the array's task, else nothing; %x: job
/// name, slashes as _; %u: user; %%: a per cent sign (sbatch(1), "filename pattern"). Other letters are kept
/// as they are; validation refuses them before.
std::string expand_pattern(std::string_view pattern, const PatternValues& values);

/// Creates (0666 and the umask) or opens for writing. The last component is never followed when it is a
/// symbolic link; devices, FIFOs and sockets are refused, /dev/null apart; folders are not made.
/// Throws std::system_error that names the file. The caller owns the descriptor, which is close-on-exec.
/// `umask`, when given, is for that moment this process's own, other threads' too.
int open_output_file(const std::string& path, OpenMode mode, const FileOwner& owner,
                     std::optional<unsigned> umask = std::nullopt);

/// Opens a job's output for reading: as open_output_file() finds it, regular files only; never waits. Throws
/// std::system_error that names the file.
int open_output_to_read(const std::string& path, const FileOwner& owner);

/// Throws std::system_error that names the file; a folder is refused. Never waits: a FIFO that nobody has
/// open for writing is empty.
int open_input_file(const std::string& path, const FileOwner& owner);

}  // namespace berth
