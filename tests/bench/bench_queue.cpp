// bench_queue: what berthd's queue costs. Its modes:
//
//   bench_queue --submit SOCKET CLIENTS JOBS [BULK]   durable submits per second; BULK (1) jobs in each
//   request bench_queue --drain SOCKET JOBS                   JOBS of /bin/true submitted drained as one
//   request, then
//                                                     undrained: jobs per second up to the last one's end
//   bench_queue --decide N                            decisions with N jobs waiting: p50, p99; memory per job
//   bench_queue --fill DATABASE N                     writes N waiting jobs, for a berthd to start with
//   bench_queue --grow DATABASE N                     writes N jobs and their whole lives, as berthd does,
//   and
//                                                     prints what a job takes of the file
//
// Raw sockets and one thread per client, so that the client costs little. docs/performance.md has figures.
#include <SQLiteCpp/Database.h>
#include <malloc.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "scheduler/waiting_jobs.h"
#include "schemas/job_file.h"
#include "schemas/usage_fields.h"
#include "store/queue_store.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Client {
 public:
  explicit Client(const char* path) : socket_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      std::perror(path);
      std::exit(1);
    }
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  std::string request(const std::string& method, const std::string& target, const std::string& body) {
    const std::string text = method + " " + target +
                             " HTTP/1.1\r\nHost: berth\r\nContent-Length: " + std::to_string(body.size()) +
                             "\r\n\r\n" + body;
    for (std::size_t done = 0; done < text.size();) {
      const ssize_t count = ::send(socket_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
      if (count <= 0) {
        std::perror("send");
        std::exit(1);
      }
      done += static_cast<std::size_t>(count);
    }
    std::string answer;
    char buffer[65536];
    for (;;) {
      const ssize_t count = ::recv(socket_, buffer, sizeof buffer, 0);
      if (count <= 0) {
        std::perror("recv");
        std::exit(1);
      }
      answer.append(buffer, static_cast<std::size_t>(count));
      const std::size_t end = answer.find("\r\n\r\n");
      const std::size_t length = answer.find("Content-Length: ");
      if (end != std::string::npos && length < end &&
          answer.size() >= end + 4 + std::strtoul(answer.c_str() + length + 16, nullptr, 10)) {
        if (answer.compare(9, 1, "2") != 0) {
          std::fprintf(stderr, "%s\n", answer.c_str());
          std::exit(1);
        }
        return answer.substr(end + 4);
      }
    }
  }

 private:
  int socket_;
};

std::string jobs_text(unsigned count, const char* extra) {
  std::string text = "[";
  for (unsigned index = 0; index < count; ++index) {
    text += std::string(index > 0 ? "," : "") + R"({"argv":["/bin/true",")" + std::to_string(index) +
            R"("],"current_working_directory":"/","standard_output":"/dev/null","memory_per_node":"64M")" +
            extra + "}";
  }
  return text + "]";
}

int submit(const char* socket, unsigned clients, unsigned jobs, unsigned bulk) {
  const std::string body = jobs_text(bulk, R"(,"hold":true)");
  const unsigned requests = jobs / clients / bulk;
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (unsigned index = 0; index < clients; ++index) {
    threads.emplace_back([&] {
      Client client(socket);
      for (unsigned done = 0; done < requests; ++done) {
        client.request("POST", "/v1/jobs", body);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const double seconds = seconds_since(start);
  std::printf("%u clients, %u jobs a request: %.0f durable submits/s\n", clients, bulk,
              requests * clients * bulk / seconds);
  return 0;
}

int drain(const char* socket, unsigned jobs) {
  Client client(socket);
  client.request("POST", "/v1/drain", "");
  auto start = Clock::now();
  const std::string answer = client.request("POST", "/v1/jobs", jobs_text(jobs, ""));
  const double submitted = seconds_since(start);
  const std::size_t last = answer.rfind(',') == std::string::npos ? answer.rfind('[') : answer.rfind(',');
  const std::string id = std::to_string(std::strtoul(answer.c_str() + last + 1, nullptr, 10));
  start = Clock::now();
  client.request("POST", "/v1/undrain", "");
  client.request("GET", "/v1/jobs/" + id + "/wait", "");
  const double seconds = seconds_since(start);
  std::printf("%u jobs submitted in %.3f s (%.0f/s), run in %.3f s: %.0f jobs/s end to end\n", jobs,
              submitted, jobs / submitted, seconds, jobs / (submitted + seconds));
  return 0;
}

int decide(unsigned jobs) {
  using namespace berth;
  const std::size_t before = ::mallinfo2().uordblks;
  WaitingJobs waiting(
      [](unsigned cpus, std::optional<Bytes> wish) { return wish.value_or(Bytes{cpus} << 30U); });
  const Timestamp now{};
  for (unsigned index = 1; index <= jobs; ++index) {
    WaitingJob job;
    job.job_id = index;
    job.user_id = index % 50;
    job.facts.priority = index % 7;
    job.facts.cpus = 1 + index % 4;
    job.facts.memory = Bytes{64} << 20U;
    job.facts.stay = std::chrono::minutes(10 + index % 50);
    waiting.add(job, now);
  }
  const double bytes = static_cast<double>(::mallinfo2().uordblks - before) / jobs;
  std::vector<RunningJob> running;
  const SteadyTime steady{};
  for (unsigned index = 0; index < 64; ++index) {
    running.push_back({{1, Bytes{64} << 20U, 1}, steady + std::chrono::minutes(index)});
  }
  std::vector<double> times;
  constexpr int kDecisions = 20'000;
  for (int index = 0; index < kDecisions; ++index) {
    // Every second one finds too little free for the first job, and looks for one that may pass it.
    const Resources free =
        index % 2 == 0 ? Resources{4, Bytes{1} << 30U, 4} : Resources{1, Bytes{1} << 30U, 1};
    const auto start = Clock::now();
    const std::optional<WaitingJob> next = waiting.take_next(free, running, steady, {});
    times.push_back(seconds_since(start) * 1e6);
    if (next) {
      waiting.add(*next, now);
    }
  }
  std::sort(times.begin(), times.end());
  std::printf("%u waiting: %.0f bytes a job, decision p50 %.1f us, p99 %.1f us\n", jobs, bytes,
              times[kDecisions / 2], times[kDecisions * 99 / 100]);
  return 0;
}

/// Jobs as jobs_text() describes them.
std::vector<berth::NewJob> new_jobs(unsigned first, unsigned count) {
  using namespace berth;
  const Timestamp now = std::chrono::time_point_cast<Timestamp::duration>(std::chrono::system_clock::now());
  std::vector<NewJob> jobs;
  for (unsigned index = first; index < first + count; ++index) {
    NewJob& job = jobs.emplace_back();
    job.spec.name = "true";
    job.spec.argv = {"/bin/true", std::to_string(index)};
    job.spec.current_working_directory = "/";
    job.spec.standard_output = "/dev/null";
    job.spec.memory_per_node = Bytes{64} << 20U;
    job.user = job.job_user = "user" + std::to_string(index % 50);
    job.user_id = job.job_user_id = 1000 + index % 50;
    job.host = "bench";
    job.submit = now;
    job.queue.emplace();
    job.queue->priority = index % 7;
    job.queue->memory = job.spec.memory_per_node;
    job.queue->stay = kUnlimited;
  }
  return jobs;
}

const berth::Supervisor kQueue{"", 0, 0, "berthd"};
constexpr unsigned kAtOnce = 10'000;

int fill(const char* database, unsigned jobs) {
  const auto store = berth::QueueStore::open(database);
  const auto start = Clock::now();
  for (unsigned done = 0; done < jobs; done += kAtOnce) {
    store->submit(new_jobs(done, std::min(kAtOnce, jobs - done)), kQueue);
  }
  std::printf("%u waiting jobs written, %.0f a second\n", jobs, jobs / seconds_since(start));
  return 0;
}

/// Whole lives: with every counter that a job has here, an output of some bytes, and the events of each step.
int grow(const char* database, unsigned jobs) {
  using namespace berth;
  const auto store = QueueStore::open(database);
  Usage usage;
  std::int64_t value = 1;
  for_each_usage_field(usage, [&](std::string_view, auto& member) {
    using Value = typename std::remove_reference_t<decltype(member)>::value_type;
    member = Value(value);
    value = value * 3 % 100'003;  // one to three bytes each
  });
  Outcome outcome;
  outcome.state = JobState::completed;
  outcome.cause = Cause::exited;
  const auto start = Clock::now();
  for (unsigned done = 0; done < jobs; done += kAtOnce) {
    const std::vector<NewJob> some = new_jobs(done, std::min(kAtOnce, jobs - done));
    const std::vector<JobId> ids = store->submit(some, kQueue);
    store->as_one([&] {
      for (const JobId id : ids) {
        const Timestamp at = some.front().submit;
        store->configure_on({"boot", 4242, 987'654, "run-4242-987654"}, id, 1,
                            {"cpu0", {0}, {0}, Bytes{64} << 20U}, at);
        store->run_and_finish(id, 1, {at, R"({"pid":4242})"}, outcome, usage, at, Sync::now);
      }
    });
  }
  const double seconds = seconds_since(start);
  SQLite::Database file(database, SQLite::OPEN_READONLY);
  const double pages = file.execAndGet("PRAGMA page_count").getDouble();  // those in the log too
  const double bytes = pages * file.execAndGet("PRAGMA page_size").getDouble() / jobs;
  std::printf(
      "%u jobs and their lives written, %.0f a second: %.0f bytes of the file each, %.2f GB a million\n",
      jobs, jobs / seconds, bytes, bytes / 1000);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 2 ? argv[1] : "";
  const auto number = [&](int index, unsigned otherwise) {
    return argc > index ? static_cast<unsigned>(std::strtoul(argv[index], nullptr, 10)) : otherwise;
  };
  if (mode == "--submit") {
    return submit(argv[2], number(3, 1), number(4, 1000), number(5, 1));
  }
  if (mode == "--drain") {
    return drain(argv[2], number(3, 1000));
  }
  if (mode == "--decide") {
    return decide(number(2, 1000));
  }
  if (mode == "--fill") {
    return fill(argv[2], number(3, 1000));
  }
  if (mode == "--grow") {
    return grow(argv[2], number(3, 1000));
  }
  std::fputs(
      "bench_queue --submit SOCKET CLIENTS JOBS [BULK] | --drain SOCKET JOBS | --decide N | "
      "--fill DATABASE N | --grow DATABASE N\n",
      stderr);
  return 2;
}
