// Which cgroup controllers an Executor can limit jobs with, as data that one process can tell another.
#pragma once

#include <string>
#include <vector>

namespace berth {

/// Values only; see CgroupTree (executor/cgroup.h) for how each is found.
struct ControllerReport {
  struct Entry {
    int version = 0;     ///< of the cgroup interface, 1 or 2; 0: unusable
    std::string reason;  ///< why it is unusable, with the remedy
    bool usable() const { return version != 0; }
  };
  std::vector<Entry> controllers;  ///< in the order of enum Controller (executor/cgroup.h)
  bool accounts_swap = false;
};

}  // namespace berth
