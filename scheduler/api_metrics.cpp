#include "scheduler/api_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <system_error>

#include "scheduler/metrics_page.h"
#include "scheduler/small_file.h"

namespace berth {
namespace {

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

MetricsPage::Labelled by_state(const std::map<JobState, std::uint64_t>& counts) {
  MetricsPage::Labelled values;
  for (const auto& [state, count] : counts) {
    values.emplace_back(to_string(state), static_cast<double>(count));
  }
  return values;
}

void add_pool(MetricsPage& page, const SlotPool& pool) {
  page.gauge("berth_cpus", "CPUs of the pool.", pool.total_cpus());
  page.gauge("berth_cpus_free", "CPUs that no job has.", pool.free_cpus());
  page.gauge("berth_cpus_withheld", "CPUs that other berths on this machine have.", pool.withheld());
  page.gauge("berth_memory_bytes", "Memory of the pool.", static_cast<double>(pool.total_memory()));
  page.gauge("berth_memory_free_bytes", "Memory that no job has.", static_cast<double>(pool.free_memory()));
  page.gauge("berth_slots", "Jobs that may run at once.", pool.total_slots());
  page.gauge("berth_slots_free", "Jobs that may run beside those that do.", pool.free_slots());
}

/// Under the names that client libraries give them.
void add_process(MetricsPage& page) {
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0) {
    page.counter("process_cpu_seconds_total", "CPU time of berthd itself.",
                 seconds(usage.ru_utime) + seconds(usage.ru_stime));
  }
  const std::string statm = read_first_line("/proc/self/statm");
  std::string_view rest = statm;
  take_until(rest, ' ');
  if (const auto pages = to_number(take_until(rest, ' '))) {
    page.gauge("process_resident_memory_bytes", "Memory of berthd itself.",
               static_cast<double>(*pages) * static_cast<double>(::sysconf(_SC_PAGESIZE)));
  }
  std::error_code error;
  const std::filesystem::directory_iterator descriptors("/proc/self/fd", error);
  if (!error) {
    page.gauge("process_open_fds", "Descriptors of berthd itself.",
               static_cast<double>(std::distance(begin(descriptors), end(descriptors))));
  }
}

}  // namespace

ApiResponse metrics_response(Daemon& daemon) {
  MetricsPage page;
  const Daemon::Totals& totals = daemon.totals();
  page.gauges("berth_build_info", "The version of berthd.", "version", {{BERTH_VERSION, 1}});
  page.gauges("berth_jobs", "Jobs that have not ended; an array whose tasks wait counts once.", "state",
              by_state(daemon.counts()));
  page.counter("berth_jobs_submitted_total", "Jobs taken since berthd was started.",
               static_cast<double>(totals.submitted));
  page.counter("berth_attempts_started_total", "Attempts whose command has begun to run since then.",
               static_cast<double>(totals.started));
  page.counters("berth_attempts_ended_total", "Attempts that have ended since then, by how.", "state",
                by_state(totals.ended));
  page.counter("berth_attempts_cpu_seconds_total", "CPU time that those have used.",
               std::chrono::duration<double>(totals.cpu_time).count());
  page.counter("berth_attempts_oom_kills_total", "Processes of those that were killed for lack of memory.",
               static_cast<double>(totals.oom_kills));
  add_pool(page, daemon.current_pool());
  page.gauge("berth_runners", "berth-runner processes that berthd speaks to.",
             static_cast<double>(daemon.runners()));
  page.gauge("berth_draining", "1: no job starts (berth drain).", daemon.draining() ? 1 : 0);
  page.gauge("berth_database_usable", "0: no job is taken or started, as the database cannot be written.",
             daemon.store_trouble().empty() ? 1 : 0);
  add_process(page);
  ApiResponse response;
  response.body = page.text();
  response.type = MetricsPage::kContentType;
  return response;
}

}  // namespace berth
