// RecordSpool: final records that wait for a berthd: one file each, in a folder that only root may enter.
//
// A file appears whole or not at all (write, fsync, rename, fsync of the folder), and is removed when its
// record is in the database. A record that is found twice is no harm: the database takes the first only.
#pragma once

#include <string>
#include <vector>

#include "scheduler/runner_protocol.h"

namespace berth {

class RecordSpool {
 public:
  /// The folder must exist.
  explicit RecordSpool(std::string folder) : folder_(std::move(folder)) {}

  /// On the disk when it returns. Throws std::system_error that names the file.
  void put(const RunnerMessage& ended) const;
  /// Every record that is there, oldest job first; a file that cannot be read is named in `problems` and
  /// left.
  std::vector<RunnerMessage> read_all(std::vector<std::string>& problems) const;
  /// Does nothing when there is none.
  void remove(AttemptId id) const;
  /// What runners that died left half-written; not what a living one, which holds these, may be writing.
  void remove_unfinished(const std::vector<AttemptId>& held) const;

 private:
  std::string path_of(AttemptId id) const;
  void sync_folder() const;
  std::string folder_;
};

}  // namespace berth
