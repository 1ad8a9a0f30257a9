// bench_queue: what berthd's queue costs. Two modes:
//
//   bench_queue --submit SOCKET CLIENTS JOBS [BULK]   durable submits per second; BULK jobs in each request
//   (1) bench_queue --drain SOCKET JOBS                   JOBS of /bin/true submitted held as one request,
//   released by
//                                                     undraining: jobs per second from then to the last one's
//                                                     end
//   bench_queue --decide N                            decisions with N jobs waiting: p50, p99; memory per job
//
// Raw sockets and one thread per client, so that the client costs little. docs/performance.md has figures.
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
#include <vector>

#include "scheduler/waiting_jobs.h"

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
    text += std::string(index > 0 ? "," : "") +
            R"({"argv":["/bin/true"],"current_working_directory":"/","standard_output":"/dev/null",)"
            R"("memory_per_node":"64M")" +
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
  std::fputs("bench_queue --submit SOCKET CLIENTS JOBS [BULK] | --drain SOCKET JOBS | --decide N\n", stderr);
  return 2;
}
