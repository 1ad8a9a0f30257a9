// What bench_launch compares: something that launches /bin/true in slots, one launch per slot at a time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "executor/executor.h"
#include "executor/os/unique_fd.h"

namespace berth::bench {

class Contender {
 public:
  explicit Contender(std::string name) : name_(std::move(name)) {}
  virtual ~Contender() = default;
  Contender(const Contender&) = delete;
  Contender& operator=(const Contender&) = delete;

  const std::string& name() const { return name_; }
  virtual void begin(unsigned slot) = 0;
  /// Blocks until at least one slot is free again; returns which. Throws when a launch failed.
  virtual std::vector<unsigned> wait() = 0;
  /// Lets time pass, as a program with an event loop would.
  virtual void rest(std::chrono::milliseconds time);

 private:
  std::string name_;
};

/// posix_spawn of a command and a wait for its end. "{}" in an argument becomes a number that is never
/// used twice.
class Spawned final : public Contender {
 public:
  Spawned(std::string name, std::vector<std::string> command);
  void begin(unsigned slot) override;
  std::vector<unsigned> wait() override;

 private:
  struct Child {
    unsigned slot = 0;
    pid_t pid = 0;
    UniqueFd pidfd;
  };
  std::vector<std::string> command_;
  std::vector<Child> children_;
  unsigned serial_ = 0;
};

/// A program that launches once for each byte on its standard input and then answers with a byte; one
/// process for each slot.
class Served final : public Contender {
 public:
  Served(std::string name, const std::string& shell_command, unsigned slots);
  ~Served() override;
  void begin(unsigned slot) override;
  std::vector<unsigned> wait() override;

 private:
  struct Server {
    pid_t pid = 0;
    UniqueFd requests;
    UniqueFd answers;
    bool busy = false;
  };
  std::vector<Server> servers_;
};

/// berth's Executor, in this process.
class Berth final : public Contender {
 public:
  Berth(std::string name, JobSpec spec, unsigned armed_ahead, std::vector<CpuSet> slots);
  void begin(unsigned slot) override;
  std::vector<unsigned> wait() override;
  void rest(std::chrono::milliseconds time) override;

 private:
  std::vector<unsigned> take_events();
  Executor executor_;
  JobSpec spec_;
  Identity identity_;
  std::vector<CpuSet> slots_;
  JobId next_ = 1;
  std::vector<std::pair<JobId, unsigned>> running_;
};

}  // namespace berth::bench
