// What an Executor in another process can enforce, told over a socket, and judged here.
#include <cerrno>

#include "executor/cgroup.h"
#include "executor/executor.h"
#include "executor/job_limits.h"

namespace berth {
namespace {

/// Answers what check_limits() asks; makes nothing.
class ReportedTree final : public CgroupTree {
 public:
  explicit ReportedTree(const ControllerReport& report) : report_(report) {}

  bool usable(Controller controller) const override { return reason_unusable(controller).empty(); }
  std::string reason_unusable(Controller controller) const override {
    const auto index = static_cast<std::size_t>(controller);
    return index < report_.unusable.size() ? report_.unusable[index] : "this berth-runner does not know it";
  }
  bool accounts_swap() const override { return report_.accounts_swap; }
  std::vector<std::string> siblings() const override { return {}; }
  std::unique_ptr<JobCgroup> make_job(const std::string& name, const CgroupLimits&) override {
    throw CgroupError(ENOTSUP, name, "");
  }

 private:
  const ControllerReport& report_;
};

}  // namespace

void check_reported_limits(const JobSpec& spec, const ControllerReport& report) {
  const ReportedTree tree(report);
  check_limits(spec, tree);
}

}  // namespace berth
