#include "scheduler/cli_run_preparation.h"

#include <exception>
#include <utility>

namespace berth {
namespace {

std::vector<InputFault> unsupported(const Executor& executor, const std::vector<RequestedJob>& jobs,
                                    const Caller& caller) {
  std::vector<InputFault> faults;
  for (const RequestedJob& job : jobs) {
    try {
      executor.check_supported(job.spec, caller);
    } catch (const LaunchError& error) {
      faults.push_back({job.source, "", "job \"" + job.spec.name + "\": " + error.what()});
    }
  }
  return faults;
}

void wait_until_ready(Executor& executor) {
  try {
    executor.wait_until_ready();
  } catch (const LaunchError& error) {
    throw InputError("berth", "", error.what());
  }
}

}  // namespace

RunPreparation::RunPreparation(Executor& executor, const std::vector<RequestedJob>& jobs,
                               const Caller& caller)
    : executor_(executor),
      thread_([this, &jobs, &caller] { prepare(jobs, caller); }, SideThread::Begins::at_once) {}

RunPreparation::~RunPreparation() {
  expect(std::nullopt);
}

void RunPreparation::prepare(const std::vector<RequestedJob>& jobs, const Caller& caller) {
  try {
    executor_.complete();
    wait_until_ready(executor_);
    refused_.set_value(unsupported(executor_, jobs, caller));
  } catch (...) {
    refused_.set_exception(std::current_exception());
    return;
  }
  if (std::this_thread::get_id() == maker_) {
    return;  // there are no more threads: the launch makes its sandbox itself
  }
  if (const std::optional<ExpectedJob> first = first_.get_future().get()) {
    executor_.expect(first->spec, first->allocation, first->identity);
  }
}

void RunPreparation::expect(std::optional<ExpectedJob> first) {
  if (!std::exchange(is_told_, true)) {
    first_.set_value(std::move(first));
  }
}

std::vector<InputFault> RunPreparation::refused() {
  return refused_.get_future().get();
}

void RunPreparation::wait() {
  expect(std::nullopt);
  thread_.wait();
}

}  // namespace berth
