// A process's view of itself and of its surroundings, as one JSON object.
#include <dirent.h>
#include <grp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "payload.h"

extern char** environ;

namespace payload {
namespace {

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
    }
    if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned>(c));
      result += escape;
    } else {
      result += c;
    }
  }
  return result + "\"";
}

std::string link_text(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t size = readlink(path.c_str(), target, sizeof(target));
  return size < 0 ? "" : std::string(target, static_cast<std::size_t>(size));
}

std::string file_text(const char* path) {
  std::string text;
  if (FILE* file = std::fopen(path, "re")) {
    char block[4096];
    std::size_t size = 0;
    while ((size = std::fread(block, 1, sizeof(block), file)) > 0) {
      text.append(block, size);
    }
    std::fclose(file);
  }
  return text;
}

void field(const char* name, const std::string& value) {
  std::printf(",\n\"%s\": %s", name, value.c_str());
}
void field(const char* name, long long value) {
  field(name, std::to_string(value));
}

std::string status_object() {
  std::string result = "{";
  std::string text = file_text("/proc/self/status");
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = text.find('\n', start);
    const std::string line = text.substr(start, end - start);
    const std::size_t colon = line.find(':');
    const std::size_t value = line.find_first_not_of(" \t", colon + 1);
    if (colon != std::string::npos) {
      result += (result.size() > 1 ? ", " : "") + quoted(line.substr(0, colon)) + ": " +
                quoted(value == std::string::npos ? "" : line.substr(value));
    }
    start = end == std::string::npos ? text.size() : end + 1;
  }
  return result + "}";
}

std::string links_object(const char* folder) {
  std::string result = "{";
  DIR* directory = opendir(folder);
  const int own = directory != nullptr ? dirfd(directory) : -1;
  while (const dirent* entry = directory != nullptr ? readdir(directory) : nullptr) {
    const std::string name = entry->d_name;
    if (name != "." && name != ".." && name != std::to_string(own)) {
      result += (result.size() > 1 ? ", " : "") + quoted(name) + ": " +
                quoted(link_text(std::string(folder) + "/" + name));
    }
  }
  if (directory != nullptr) {
    closedir(directory);
  }
  return result + "}";
}

std::string environment_object() {
  std::string result = "{";
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::size_t equals = text.find('=');
    result += (result.size() > 1 ? ", " : "") + quoted(text.substr(0, equals)) + ": " +
              quoted(text.substr(equals + 1));
  }
  return result + "}";
}

std::string affinity_list() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof(set), &set);
  std::string result = "[";
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) {
      result += (result.size() > 1 ? ", " : "") + std::to_string(cpu);
    }
  }
  return result + "]";
}

std::string limits_object() {
  const struct {
    const char* name;
    __rlimit_resource resource;
  } all[] = {{"nofile", RLIMIT_NOFILE}, {"fsize", RLIMIT_FSIZE},     {"core", RLIMIT_CORE},
             {"stack", RLIMIT_STACK},   {"memlock", RLIMIT_MEMLOCK}, {"nproc", RLIMIT_NPROC},
             {"rtprio", RLIMIT_RTPRIO}, {"nice", RLIMIT_NICE}};
  std::string result = "{";
  for (const auto& one : all) {
    rlimit limit{};
    getrlimit(one.resource, &limit);
    result += (result.size() > 1 ? ", " : "") + quoted(one.name) + ": [" +
              std::to_string(static_cast<long long>(limit.rlim_cur)) + ", " +
              std::to_string(static_cast<long long>(limit.rlim_max)) + "]";
  }
  return result + "}";
}

// Signals that are neither default nor, as far as a new program can tell, its own doing.
std::string ignored_list() {
  std::string result = "[";
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) {
      result += (result.size() > 1 ? ", " : "") + std::to_string(number);
    }
  }
  return result + "]";
}

std::string blocked_list() {
  sigset_t set;
  sigemptyset(&set);
  sigprocmask(SIG_SETMASK, nullptr, &set);
  std::string result = "[";
  for (int number = 1; number < NSIG; ++number) {
    if (sigismember(&set, number) == 1) {
      result += (result.size() > 1 ? ", " : "") + std::to_string(number);
    }
  }
  return result + "]";
}

std::string groups_list() {
  gid_t groups[1024];
  const int count = getgroups(1024, groups);
  std::string result = "[";
  for (int i = 0; i < count; ++i) {
    result += (i > 0 ? ", " : "") + std::to_string(groups[i]);
  }
  return result + "]";
}

double clock_seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

int report(const Arguments& arguments) {
  // umask first: stdio may make nothing, and reading it means setting it.
  const mode_t mask = umask(0);
  umask(mask);
  utsname names{};
  uname(&names);
  char folder[PATH_MAX] = "";
  if (getcwd(folder, sizeof(folder)) == nullptr) {
    folder[0] = '\0';
  }
  std::printf("{\"pid\": %d", getpid());
  field("ppid", getppid());
  field("sid", getsid(0));
  field("pgid", getpgid(0));
  field("uid", getuid());
  field("euid", geteuid());
  field("gid", getgid());
  field("groups", groups_list());
  field("umask", mask);
  field("hostname", quoted(names.nodename));
  field("cwd", quoted(folder));
  field("exe", quoted(link_text("/proc/self/exe")));
  field("init", quoted(file_text("/proc/1/comm")));
  field("affinity", affinity_list());
  field("ignored_signals", ignored_list());
  field("blocked_signals", blocked_list());
  field("limits", limits_object());
  field("namespaces", links_object("/proc/self/ns"));
  field("descriptors", links_object("/proc/self/fd"));
  field("cgroup", quoted(file_text("/proc/self/cgroup")));
  field("mountinfo", quoted(file_text("/proc/self/mountinfo")));
  field("uid_map", quoted(file_text("/proc/self/uid_map")));
  field("gid_map", quoted(file_text("/proc/self/gid_map")));
  field("status", status_object());
  field("environment", environment_object());
  field("monotonic", std::to_string(clock_seconds(CLOCK_MONOTONIC)));
  field("boottime", std::to_string(clock_seconds(CLOCK_BOOTTIME)));
  field("has_tty", isatty(0) == 1 || isatty(1) == 1 ? 1 : 0);
  std::string given = "[";
  for (const auto& argument : arguments) {
    given += (given.size() > 1 ? ", " : "") + quoted(argument);
  }
  field("arguments", given + "]");
  std::printf("}\n");
  return 0;
}

}  // namespace

Commands report_commands() {
  return {{"report", "[ARGUMENTS]: this process as JSON", report}};
}

}  // namespace payload
